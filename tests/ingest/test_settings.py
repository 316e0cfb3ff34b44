"""Settings: each one marked, documented and bounded, on every floor."""

import pytest
from pydantic import ValidationError

from augment.settings import LoaderSettings
from cluster.settings import KINDS, ServeSettings
from ingest.settings import IngestSettings, SampleSettings, Settings, VerifySettings
from trainer.settings import EvaluateSettings, TrainSettings
from trainer.switches import NetworkSettings, Recipe, RuleSettings

MODELS: list[type[Settings]] = [
    IngestSettings, SampleSettings, VerifySettings, LoaderSettings, TrainSettings, EvaluateSettings,
    NetworkSettings, RuleSettings, Recipe, ServeSettings, *KINDS.values(),
]  # fmt: skip


@pytest.mark.parametrize("model", MODELS, ids=lambda m: m.__name__)
def test_every_setting_is_marked_and_explained(model: type[Settings]) -> None:
    for name, field in model.model_json_schema()["properties"].items():
        assert field.get("role") in ("content", "execution"), name
        assert len(field.get("description", "")) > 8, name


@pytest.mark.parametrize("model", MODELS, ids=lambda m: m.__name__)
def test_unknown_keys_are_refused(model: type[Settings]) -> None:
    with pytest.raises(ValidationError, match="no_such_setting"):
        model.model_validate({"no_such_setting": 1})


def test_only_content_enters_ids() -> None:
    content = IngestSettings(num_actors=7, max_bad="3", seed=5).content()
    assert content["seed"] == 5
    assert not {"num_actors", "max_bad"} & set(content)
    assert IngestSettings(num_actors=7).execution()["num_actors"] == 7


def test_settings_cannot_be_changed_after_they_were_checked() -> None:
    settings = IngestSettings()
    with pytest.raises(ValidationError):
        settings.seed = 1  # type: ignore[misc]


@pytest.mark.parametrize("max_bad", ["-1", "a lot", "5 %", "%", ""])
def test_a_budget_is_a_count_or_a_share(max_bad: str) -> None:
    with pytest.raises(ValidationError):
        IngestSettings(max_bad=max_bad)
