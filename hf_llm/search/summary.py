"""The results of a search: `search.json`, `search.md`, `search.html` and `best.yaml` in its folder."""

import shlex
import textwrap
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna

from hf_llm.files import write_json, write_text
from hf_llm.mappings import dump_yaml, read_json_file
from hf_llm.messages import format_p_value, format_value
from hf_llm.publishing.page import Picture, Section, Table, Text, Texts, write_markdown, write_page
from hf_llm.search.pictures import draw_search, settings_with_curves
from hf_llm.search.scheduling import RECORD
from hf_llm.search.space import describe
from hf_llm.search.verdict import judge, run_scores, with_interval
from hf_llm.statistics import held_out_share
from hf_llm.training.record import LOG, read_run

BEST = "best.yaml"
# Settings of a single run that the next one has its own of.
OF_A_RUN = ("output_dir", "fold", "seed", "data_seed", "run_name", "resume_from_checkpoint")
MOST_ROWS, PRINTED = 200, 10  # settings on the page, on the terminal


def write_results(folder: str | Path, study: optuna.Study) -> dict[str, Any]:
    """Write what a search found, from its `search.json`: figures, verdict, tables, pictures and the best settings.

    Args:
        folder: of the search.
        study: its trials, for the pictures.

    Returns:
        The content of `search.json`: what `judge` adds to it, such as `verdict`, is there.

    Raises:
        ValueError: a run in the folder cannot be read.
    """
    folder = Path(folder)
    record = read_json_file(folder / RECORD)
    search = judge(record | {"test_share": test_share(folder, record)})
    write_json(folder / RECORD, search)
    best = write_best(folder, search)
    pictures = draw_search(search, study, read_logs(folder, search))
    sections = describe_search(search, best, pictures)
    count = len(search["settings"])
    title = f"Search of {count} setting{'s' * (count != 1)}"
    write_markdown(folder / "search.md", title, search["verdict"], sections)
    write_page(folder / "search.html", title, search["verdict"], sections)
    return search


def report_search(search: dict[str, Any], output_dir: str) -> None:
    """Print the end of a search: the best settings, the verdict, what to do next.

    Args:
        search: what `write_results` returns.
        output_dir: folder of the search.
    """
    settings = {setting["number"]: setting for setting in search["settings"]}
    for place, number in enumerate(search["ranking"][:PRINTED]):
        heading = f"\n{search['metric']} and settings, the best first\n" if place == 0 else ""
        print(f"{heading}  {with_interval(settings[number]):<28}  {number}: {describe(settings[number]['parameters'])}")
    if len(search["ranking"]) > PRINTED:
        print(f"  and {len(search['ranking']) - PRINTED:,} more")
    for text in (search["verdict"], *search["notes"]):
        print(f"\n{textwrap.fill(text, 100)}")
    if search["best"] is not None:
        print(f"\nTo train with the best: {training_command(search, Path(output_dir))}")
    print(f"Results: {output_dir}/search.html", flush=True)


def test_share(folder: Path, record: dict[str, Any]) -> float:
    """Share of the rows that each run of a setting holds out, as the tests over runs need it.

    Also without folds, a validation split that is drawn from the training rows is another one for each seed.
    """
    complete = [setting for setting in record["settings"] if setting["state"] == "complete"]
    if not complete:
        return 0
    runs = [read_run(folder / run["folder"]) for run in complete[0]["runs"]]
    data = [run.environment.get("data", {}).get("validation") or {} for run in runs]
    return held_out_share(runs[0].settings, [split.get("fingerprint") for split in data])


def read_logs(folder: Path, search: dict[str, Any]) -> dict[int, list[dict[str, Any]]]:
    """Read the log of the first run of each setting whose curve is drawn, if it has one."""
    runs = {
        setting["number"]: folder / setting["runs"][0]["folder"] for setting in search["settings"] if setting["runs"]
    }
    numbers = [number for number in settings_with_curves(search) if number in runs]
    return {number: read_run(runs[number]).log for number in numbers if (runs[number] / LOG).is_file()}


def write_best(folder: Path, search: dict[str, Any]) -> str | None:
    """Write `best.yaml`: all settings of the best one's run but those of a single run, which `--config` takes.

    Returns:
        The command that trains with it; None, and no file, if no setting was completed.
    """
    (folder / BEST).unlink(missing_ok=True)
    if search["best"] is None:
        return None
    best = next(setting for setting in search["settings"] if setting["number"] == search["best"])
    settings = read_run(folder / best["runs"][0]["folder"]).settings
    settings = {name: value for name, value in settings.items() if name not in OF_A_RUN}
    shown = folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
    command = training_command(search, shown)
    comments = [f"Setting {best['number']} of the search in {shown}.", search["verdict"], *search["notes"]]
    comments += ["To train with it:", command]
    write_text(folder / BEST, "".join(f"# {line}\n" for line in comments) + dump_yaml(settings))
    return command


def training_command(search: dict[str, Any], folder: Path) -> str:
    """The command that trains with the best setting: launcher and recipe of the search's, without its flags."""
    words = shlex.split(search["command"])
    recipe = next(number for number, word in enumerate(words) if word.endswith(".py"))
    return f"{shlex.join(words[: recipe + 1])} --config {shlex.quote(str(folder / BEST))} --output_dir outputs/best"


def describe_search(search: dict[str, Any], command: str | None, pictures: Sequence[Picture]) -> list[Section]:
    """The sections of the page: the best setting, pictures, all settings, how they were searched."""
    settings = {setting["number"]: setting for setting in search["settings"]}
    best = settings.get(search["best"])
    blocks: list[Any] = [Text(note) for note in search["notes"]]
    if best is not None:
        blocks.insert(0, Table.of(best["parameters"]))
    if command is not None:
        blocks.append(Texts([{f"To train with it ({BEST} has all settings)": command}]))
    names = list(dict.fromkeys(name for setting in search["settings"] for name in setting["parameters"]))
    others = [number for number in settings if number not in search["ranking"]]
    rows = [setting_row(settings[n], names, search["metric"]) for n in [*search["ranking"], *others][:MOST_ROWS]]
    heads = [
        "setting",
        *(name.rpartition(".")[2] for name in names),
        search["metric"],
        "95 % interval",
        "runs",
        "steps",
        "state",
    ]
    return [
        Section("Best setting", blocks),
        *([Section("Pictures", pictures)] if pictures else []),
        Section("Settings", [Table(heads, rows), *left_out(len(settings))]),
        Section("How it was searched", [Table.of(search_facts(search))]),
    ]


def left_out(settings: int) -> list[Text]:
    """Say how many settings the table leaves out."""
    return [Text(f"{settings - MOST_ROWS:,} more are in {RECORD}.")] if settings > MOST_ROWS else []


def setting_row(setting: dict[str, Any], names: Sequence[str], metric: str) -> list[Any]:
    """A row of the table of settings."""
    complete = setting["state"] == "complete"
    interval = None
    if complete and setting["low"] is not None:
        interval = f"{format_value(setting['low'])} to {format_value(setting['high'])}"
    return [
        setting["number"],
        *(show(setting["parameters"].get(name)) for name in names),
        setting["mean"] if complete else None,
        interval,
        len(run_scores(setting, metric)) if complete else None,
        sum(run.get("steps") or 0 for run in setting["runs"]),
        setting["state"] if not setting.get("error") else f"{setting['state']}: {setting['error']}",
    ]


def show(value: Any) -> str | None:
    """A value of a parameter as it is written in YAML, so that 1e-05 is not rounded and true is not 1."""
    return None if value is None else str(value).lower() if isinstance(value, bool) else f"{value}"


def search_facts(search: dict[str, Any]) -> dict[str, Any]:
    """How settings were chosen, trained and compared."""
    counts = Counter(setting["state"] for setting in search["settings"])
    steps = [sum(run.get("steps") or 0 for run in each["runs"]) for each in search["settings"]]
    facts = {name: search.get(name) for name in ("command", "space", "sampler", "pruner", "metric", "direction")}
    facts |= {"folds": search.get("num_folds"), "seeds": show_list(search.get("seeds"))}
    facts |= {"settings": ", ".join(f"{number} {state}" for state, number in counts.most_common())}
    facts |= {"steps of all runs": sum(steps)}
    if (full := max(steps, default=0) * len(steps)) > sum(steps):
        facts["steps without pruning"] = f"{full:,}; {sum(steps) / full:.0%} of them were trained"
    if (comparison := search["comparison"]) and comparison["p_value"] is not None:
        facts["best against second"] = f"setting {comparison['second']}, {format_p_value(comparison['p_value'])}"
    return {name: value for name, value in facts.items() if value is not None}


def show_list(values: Sequence[Any] | None) -> str | None:
    """Values separated by spaces, as a flag takes them."""
    return None if not values else " ".join(map(str, values))
