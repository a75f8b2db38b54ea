"""From a model to a finished folder of tiers, with numbers and a card, stopped at any time."""

from apex.publishing.pipeline import Due, Pipeline, free_bytes
from apex.publishing.publication import CardFacts, Publication, load_publication, template
from apex.publishing.step import STAGES, Step
from apex.publishing.uploading import uploads

__all__ = [
    "STAGES",
    "CardFacts",
    "Due",
    "Pipeline",
    "Publication",
    "Step",
    "free_bytes",
    "load_publication",
    "template",
    "uploads",
]
