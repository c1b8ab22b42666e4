"""Options from configs: flags in messages, former names, config files, and errors that carry a field."""

import json
import warnings
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import pytest
import typer
from pydantic import Field, field_validator
from typer.testing import CliRunner

from smile_pipe.cli.options import command, flag, with_flags
from smile_pipe.pipeline.common.option_types import CommaSeparated, Repeated
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.manifest import Frozen


class ExampleConfig(Frozen):
    """Options of the example command."""

    OLD_NAMES: ClassVar[dict[str, str]] = {"accumulate": "grad_cache_chunks", "without": "drop_loss"}

    out: str = Field(description="Output directory.")
    scans: Annotated[tuple[str, ...], Repeated] = Field((), description="Scans.")
    grad_cache_chunks: int = Field(1, ge=1, description="Parts of a batch; fewer with `mixed_precision=bf16`.")
    drop_loss: Annotated[tuple[str, ...], CommaSeparated] = Field((), description="Losses to leave out of `out`.")
    mixed_precision: str = Field("off", description="Precision.")
    rate: Annotated[float, Field(gt=0)] | Literal["auto"] = Field("auto", description="Rate.")

    @field_validator("mixed_precision")
    @classmethod
    def _known(cls, value: str) -> str:
        if value == "half":
            warnings.warn("`mixed_precision=half` is now `mixed_precision=fp16`", FutureWarning, stacklevel=2)
        if value == "fp8":
            raise UsageError("needs a GPU; use `mixed_precision=bf16`", field="mixed_precision", value=value)
        return value


def invoke(*arguments: object, error: Exception | None = None) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command that prints its config as JSON, or fails with `error`."""
    app = typer.Typer()

    @command(app, "example", ExampleConfig, arguments=("out", "scans"))
    def example(config: ExampleConfig, console: object) -> dict:
        """Example."""
        if error:
            raise error
        return config.model_dump(mode="json")

    # With a second command typer keeps the name of the first one on the command line.
    app.command("other")(lambda: None)
    result = CliRunner().invoke(app, ["example", *map(str, arguments)], env={"COLUMNS": "300", "TERM": "dumb"})
    return result.exit_code, result.stdout, result.stderr


def config_of(*arguments: object) -> dict:
    code, out, err = invoke(*arguments, "--json")
    assert code == 0, err
    return json.loads(out)


class TestWithFlags:
    @pytest.fixture(autouse=True)
    def _register_fields(self):
        invoke("--help")

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("use `mixed_precision=bf16`", "use --mixed-precision bf16"),
            ("leave `grad_cache_chunks` out", "leave --grad-cache-chunks out"),
            ("`drop_loss=mv,cm`, or `drop_loss`", "--drop-loss mv,cm, or --drop-loss"),
            ("`mixed_precision=a b`", "--mixed-precision a b"),
            ("`mixed_precision=`", "--mixed-precision"),
            ("see `no_such_field` and `no_such_field=3`", "see `no_such_field` and `no_such_field=3`"),
            ("`smile-pipe verify shards` lists them", "`smile-pipe verify shards` lists them"),
            ("`Mixed_precision` and mixed_precision", "`Mixed_precision` and mixed_precision"),
            ("no fields", "no fields"),
        ],
    )
    def test_known_fields_in_backticks_become_flags(self, text, expected):
        assert with_flags(text) == expected

    def test_positional_fields_are_written_in_capitals(self):
        assert with_flags("`out` or `scans`", ("out",)) == "OUT or --scans"
        assert (flag("num_workers"), flag("num_workers", ("num_workers",))) == ("--num-workers", "NUM_WORKERS")

    def test_help_texts_name_flags(self):
        _, out, _ = invoke("--help")
        assert "fewer with --mixed-precision bf16" in out and "`" not in out


class TestNumberOrWord:
    @pytest.mark.parametrize(
        ("given", "expected"), [([], "auto"), (["--rate", "auto"], "auto"), (["--rate", 0.5], 0.5)]
    )
    def test_both_are_accepted(self, given, expected):
        assert config_of("here", *given)["rate"] == expected

    @pytest.mark.parametrize(("given", "reason"), [("fast", "valid number"), (-1, "greater than 0")])
    def test_others_are_refused_with_the_flag(self, given, reason):
        code, _, err = invoke("here", "--rate", given)
        assert code == 2 and f"error: --rate {given}: " in err and reason in err


class TestOldNames:
    def test_old_name_sets_the_new_option_and_prints_a_warning(self):
        code, out, err = invoke("here", "--accumulate", 4, "--without", "mv,cm", "--json")
        assert code == 0
        assert json.loads(out)["grad_cache_chunks"] == 4 and json.loads(out)["drop_loss"] == ["mv", "cm"]
        assert "warning: --accumulate is now called --grad-cache-chunks; the old name will be removed\n" in err
        assert "warning: --without is now called --drop-loss; the old name will be removed\n" in err

    def test_new_names_print_no_warning(self):
        code, _, err = invoke("here", "--grad-cache-chunks", 4, "--json")
        assert (code, err) == (0, "")

    def test_new_name_has_priority(self):
        assert config_of("here", "--accumulate", 4, "--grad-cache-chunks", 2)["grad_cache_chunks"] == 2

    def test_old_names_are_hidden_in_help(self):
        _, out, _ = invoke("--help")
        assert "--grad-cache-chunks" in out and "--accumulate" not in out and "--without" not in out

    def test_old_names_work_in_config_files(self, tmp_path: Path):
        (tmp_path / "options.yaml").write_text("accumulate: 4\ndrop-loss: [mv]\n")
        config = config_of("here", "--config", tmp_path / "options.yaml")
        assert (config["grad_cache_chunks"], config["drop_loss"]) == (4, ["mv"])
        assert config_of("here", "--config", tmp_path / "options.yaml", "--accumulate", 2)["grad_cache_chunks"] == 2

    def test_errors_name_the_new_option(self):
        code, _, err = invoke("here", "--accumulate", 0)
        assert code == 2 and "error: --grad-cache-chunks 0: " in err


class TestFieldOfAnError:
    @pytest.mark.parametrize(
        ("field", "value", "line"),
        [
            ("grad_cache_chunks", 3, "error: --grad-cache-chunks 3: too many\n"),
            ("grad_cache_chunks", None, "error: --grad-cache-chunks: too many\n"),
            ("out", "/data", "error: OUT /data: too many\n"),
            ("scans", None, "error: SCANS: too many\n"),
            ("", None, "error: too many\n"),
        ],
    )
    def test_field_becomes_a_flag_or_the_name_of_an_argument(self, field, value, line):
        code, out, err = invoke("here", error=UsageError("too many", field=field, value=value))
        assert (code, out, err) == (2, "", line)

    def test_fields_within_the_message_become_flags_too(self):
        error = UsageError("exists; choose another, or `drop_loss=mv` with `out`", field="out", value="here")
        assert invoke("here", error=error)[2] == "error: OUT here: exists; choose another, or --drop-loss mv with OUT\n"

    def test_error_of_a_validator_keeps_its_field(self):
        code, _, err = invoke("here", "--mixed-precision", "fp8")
        assert (code, err) == (2, "error: --mixed-precision fp8: needs a GPU; use --mixed-precision bf16\n")

    def test_warnings_of_a_config_are_printed(self):
        code, _, err = invoke("here", "--mixed-precision", "half", "--json")
        assert (code, err) == (0, "warning: --mixed-precision half is now --mixed-precision fp16\n")

    def test_missing_argument_is_named_in_capitals(self):
        assert invoke()[::2] == (2, "error: OUT is required\n")

    def test_other_errors_exit_with_1_and_hint_at_the_traceback(self):
        code, _, err = invoke("here", error=RuntimeError("the worker died"))
        assert (code, err) == (1, "failed: the worker died  (--debug prints a traceback)\n")


class TestConfigFile:
    @pytest.mark.parametrize(
        ("content", "message"),
        [("unknown: 3\n", "unknown option: unknown"), ("- 1\n", "needs options by name"), ("a: [\n", "cannot be read")],
    )
    def test_unusable_file_is_an_error_that_names_it(self, tmp_path: Path, content, message):
        (tmp_path / "options.yaml").write_text(content)
        code, _, err = invoke("here", "--config", tmp_path / "options.yaml")
        assert code == 2 and err.startswith(f"error: --config {tmp_path}/options.yaml: {message}")


class TestEnvironment:
    def test_flag_overrides_environment_which_overrides_the_file(self, tmp_path, monkeypatch):
        file = tmp_path / "options.yaml"
        file.write_text("grad_cache_chunks: 2\nrate: 0.25\nmixed_precision: bf16\n")
        monkeypatch.setenv("SMILE_PIPE_EXAMPLE_GRAD_CACHE_CHUNKS", "3")
        monkeypatch.setenv("SMILE_PIPE_EXAMPLE_RATE", "0.5")
        found = config_of("here", "--config", file, "--rate", 0.75)
        assert (found["mixed_precision"], found["grad_cache_chunks"], found["rate"]) == ("bf16", 3, 0.75)

    def test_arguments_and_lists_are_read(self, monkeypatch):
        monkeypatch.setenv("SMILE_PIPE_EXAMPLE_OUT", "there")
        monkeypatch.setenv("SMILE_PIPE_EXAMPLE_SCANS", "a.obj b.obj")
        found = config_of()
        assert (found["out"], found["scans"]) == ("there", ["a.obj", "b.obj"])

    @pytest.mark.parametrize(
        ("name", "value", "line"),
        [
            ("GRAD_CACHE_CHUNKS", "0", "error: --grad-cache-chunks 0: Input should be greater than or equal to 1"),
            ("MIXED_PRECISION", "fp8", "error: --mixed-precision fp8: needs a GPU; use --mixed-precision bf16"),
        ],
    )
    def test_errors_name_the_variable(self, monkeypatch, name, value, line):
        variable = f"SMILE_PIPE_EXAMPLE_{name}"
        monkeypatch.setenv(variable, value)
        assert invoke("here") == (2, "", f"{line} (from {variable})\n")
        monkeypatch.delenv(variable)
        assert "from" not in invoke("here", flag(name.lower()), value)[2]

    def test_errors_of_the_stage_name_the_variable(self, monkeypatch):
        monkeypatch.setenv("SMILE_PIPE_EXAMPLE_RATE", "0.5")
        _, _, err = invoke("here", error=UsageError("is too small", field="rate", value=0.5))
        assert err == "error: --rate 0.5: is too small (from SMILE_PIPE_EXAMPLE_RATE)\n"
        assert "from" not in invoke("here", error=UsageError("is missing", field="drop_loss"))[2]


def test_help_marks_what_is_required_and_prints_defaults_as_values():
    _, out, _ = invoke("--help")
    assert "example [OPTIONS] OUT [SCANS...]" in " ".join(out.split())
    assert "[required]" in next(line for line in out.splitlines() if "Output directory." in line)
    assert out.count("[required]") == 1
    assert "[default: 1]" in out and "[default: auto]" in out and "(auto)" not in out
