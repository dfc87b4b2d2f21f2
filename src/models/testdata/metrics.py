"""Makes metrics.json: scores, labels and scikit-learn's figures for them.

    python -m venv venv && venv/bin/pip install scikit-learn && venv/bin/python metrics.py > metrics.json
"""
import json
import random

from sklearn import metrics

cases = []
for seed, rows, rate, digits, threshold in [(1, 50, 0.3, 6, 0.5), (2, 200, 0.05, 2, 0.3), (3, 120, 0.5, 1, 0.6), (4, 30, 0.1, 4, 0.99)]:
    r = random.Random(seed)
    labels = [r.random() < rate for _ in range(rows)]
    labels[0], labels[1] = True, False
    scores = [round(min(1.0, max(0.0, r.gauss(0.6 if y else 0.35, 0.2))), digits) for y in labels]
    alerts = [s >= threshold for s in scores]
    cases.append({
        "scores": scores,
        "labels": labels,
        "threshold": threshold,
        "average_precision": float(metrics.average_precision_score(labels, scores)),
        "roc_auc": float(metrics.roc_auc_score(labels, scores)),
        "brier": float(metrics.brier_score_loss(labels, scores)),
        "log_loss": float(metrics.log_loss(labels, scores)),
        "precision": float(metrics.precision_score(labels, alerts, zero_division=0)),
        "recall": float(metrics.recall_score(labels, alerts)),
        "f1": float(metrics.f1_score(labels, alerts)),
    })
print(json.dumps(cases))
