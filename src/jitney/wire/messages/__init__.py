"""Requests and answers, one file a noun. New fields have defaults; types and meanings never change."""
