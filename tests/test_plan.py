"""The line that a run begins with."""

import dataclasses

import pytest

from tokendream.config.presets import TOY
from tokendream.training.plan import plan

M_AND_C = "The world model and the actor-critic are not trained: they begin in epochs 4 and 10."


@pytest.mark.parametrize(
    ("epochs", "ends"),
    [(3, M_AND_C), (4, "The actor-critic is not trained: it begins in epoch 10."), (10, "as the phases are timed.")],
)
def test_a_run_too_short_for_a_part_says_so(epochs, ends):
    assert plan(dataclasses.replace(TOY, epochs=epochs), {}).endswith(f". {ends}" if epochs < 10 else ends)


def test_parts_that_begin_together_and_parts_without_updates():
    phases = {
        name: dataclasses.replace(getattr(TOY.training, name), first_epoch=7)
        for name in ("tokenizer", "world_model", "actor_critic")
    }
    phases["actor_critic"] = dataclasses.replace(phases["actor_critic"], updates=0)
    training = dataclasses.replace(TOY.training, **phases)
    said = plan(dataclasses.replace(TOY, epochs=6, training=training), {})
    assert said.endswith(". The tokenizer and the world model are not trained: they begin in epoch 7.")
