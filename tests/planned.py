"""Carry out a plan without training: every method is exported as it is initialised."""

from __future__ import annotations

from facscale.evaluate.protocol import LabelledDataset
from facscale.inference.export import save_export
from facscale.job.datasets import JobData
from facscale.job.evaluator import Evaluator
from facscale.job.plan import build_plan, make_task
from facscale.train.setup import make_method


class PlannedJob:
    """The tasks of a plan by title, and their exports by id."""

    def __init__(self, variant, *, transfer=()):
        labelled = [LabelledDataset.open(url, evaluate=variant.job.evaluate) for url in variant.job.data.labelled]
        self.plan = build_plan([variant], JobData(tuple(labelled), tuple(transfer)))
        self.tasks, self.exports = {}, {}
        for node in self.plan.trainings.values():
            assert node.title not in self.tasks, "trained twice"
            task = self.tasks[node.title] = make_task(node, self.exports, identities=0)
            self.exports[node.id] = save_export(make_method(task))

    @property
    def evaluations(self):
        return self.plan.variants[0].evaluations

    @property
    def groups(self):
        return [evaluation.group for evaluation in self.evaluations]

    def people(self, title):
        subjects = self.tasks[title].subjects
        return subjects and {url: set(people) for url, people in subjects.items()}

    def predict(self, number=0):
        """Predictions of an evaluation, by title of the table."""
        return Evaluator().predict(self.evaluations[number], self.exports)
