"""Jitney: open, self-hosted serverless compute for AI."""
