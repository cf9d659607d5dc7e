"""A real job: find the best classifier for handwritten digits, by cross-validation over containers.

The imports below are made once, in the template that containers are forked from: a new container has them at once.

scikit-learn ships 1,797 images of digits, 8 x 8 pixels each. Every candidate below (a model with its parameters) is
scored by five-fold cross-validation in a container of its own turn; the results come back in order, while others still
run. The best one is trained on three quarters of the data in a container, fetched back as a model, and judged here on
the quarter that it has never seen. The confusion matrix is saved as a picture.

    jitney run examples/digits_search.py
    jitney run examples/digits_search.py --picture /tmp/digits.png
"""

from __future__ import annotations

import time
import warnings
from pathlib import Path
from typing import Any

import sklearn
from sklearn.base import ClassifierMixin
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import ConfusionMatrixDisplay, accuracy_score, confusion_matrix
from sklearn.model_selection import cross_val_score, train_test_split
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

import jitney

# The fetched model is unpickled here: both sides must have the same scikit-learn.
image = (
    jitney.Image.debian_slim()
    .uv_pip_install(f"scikit-learn=={sklearn.__version__}")
    .env({"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"})  # containers share the cores: one thread for each
)
app = jitney.App("digits-search", image=image)

Candidate = tuple[str, dict[str, Any]]


def candidates() -> list[Candidate]:
    """Four kinds of model, 60 candidates."""
    found: list[Candidate] = []
    found += [
        ("svc", {"C": c, "gamma": gamma})
        for c in (0.1, 1.0, 3.0, 10.0, 30.0)
        for gamma in (0.0001, 0.0003, 0.001, 0.003, 0.01)
    ]
    found += [
        ("knn", {"n_neighbors": k, "weights": weights})
        for k in (1, 2, 3, 5, 9, 15)
        for weights in ("uniform", "distance")
    ]
    found += [
        ("forest", {"n_estimators": trees, "max_features": features})
        for trees in (50, 100, 200)
        for features in (4, 8, 16)
    ]
    found += [
        ("logistic", {"C": c, "max_iter": iterations})
        for c in (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
        for iterations in (100, 300)
    ]
    return found


def build(candidate: Candidate) -> ClassifierMixin:
    """The untrained model of a candidate."""
    kind, parameters = candidate
    if kind == "svc":
        return SVC(**parameters)
    if kind == "knn":
        return KNeighborsClassifier(**parameters)
    if kind == "forest":
        return RandomForestClassifier(random_state=0, **parameters)
    return make_pipeline(StandardScaler(), LogisticRegression(**parameters))


def split() -> Any:
    """(training images, test images, training digits, test digits): the same on both sides."""
    images, digits = load_digits(return_X_y=True)
    return train_test_split(images, digits, test_size=0.25, random_state=0, stratify=digits)


@app.function(cpu=1)
def score(kind: str, parameters: dict[str, Any]) -> tuple[float, float]:
    """(mean accuracy over five folds, seconds of processor time that it took)."""
    warnings.simplefilter("ignore")  # a candidate that does not converge just scores low
    started = time.process_time()
    images, _, digits, _ = split()
    scores = cross_val_score(build((kind, parameters)), images, digits, cv=5)
    return float(scores.mean()), time.process_time() - started


@app.function(cpu=1)
def train(candidate: Candidate) -> ClassifierMixin:
    """The trained model."""
    images, _, digits, _ = split()
    return build(candidate).fit(images, digits)


@app.local_entrypoint()
def main(picture: Path = Path("digits_confusion.png"), top: int = 5) -> None:
    wanted = candidates()
    print(f"{len(wanted)} candidates, five folds each, on 1,347 images")
    started = time.perf_counter()
    scores = list(score.starmap(wanted))
    wall_s = time.perf_counter() - started
    work_s = sum(seconds for _, seconds in scores)

    ranked = sorted(zip(scores, wanted, strict=True), key=lambda item: item[0], reverse=True)
    for (accuracy, seconds), (kind, parameters) in ranked[:top]:
        print(f"  {accuracy:.4f}  {kind:9s} {parameters}  ({seconds:.2f} s)")
    print(f"{work_s:.1f} s of processor time in {wall_s:.1f} s")

    model = train.remote(ranked[0][1])
    judge(model, picture)


def judge(model: ClassifierMixin, picture: Path) -> None:
    """Print the accuracy on unseen images, and save the confusion matrix as a picture."""
    import matplotlib  # only here: the containers do without it

    matplotlib.use("Agg")  # no screen is needed
    import matplotlib.pyplot as plt

    _, images, _, digits = split()
    guessed = model.predict(images)
    accuracy = accuracy_score(digits, guessed)
    print(
        f"the best model, fetched back: {type(model).__name__}, accuracy {accuracy:.4f} on {len(digits)} unseen images"
    )
    print(confusion_matrix(digits, guessed))
    figure, axes = plt.subplots(figsize=(6, 6), layout="constrained")
    ConfusionMatrixDisplay.from_predictions(digits, guessed, ax=axes, cmap="Blues", colorbar=False)
    axes.set_title(f"Handwritten digits: accuracy {accuracy:.2%}\n{model}", fontsize=10)
    figure.savefig(picture, dpi=120)
    print(f"confusion matrix saved to {picture}")
