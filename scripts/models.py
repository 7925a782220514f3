"""List model versions or adapted bodies, and choose which of them are used.

    python -m scripts.models list
    python -m scripts.models promote r0003
    python -m scripts.models bodies
    python -m scripts.models start a0001
    python -m scripts.models start auto
    python -m scripts.models adapt

To roll back, promote an older version. The newest KEEP_VERSIONS full versions and the versions that
were recently in service keep their weights; all other versions keep only their figures. After a
promotion, the ranker reorders the open tasks in Label Studio.

`bodies` lists the bodies that were adapted to the pool. `start` chooses the one that full training
runs start from, or `pretrained` for the weights that WEIGHTS names. Your choice stays, also after a
later adaptation, until `start auto` lets the loop choose again. `adapt` requests another adaptation
from that start, for example after ADAPT was raised; otherwise the loop adapts a body again only
when the pool has grown by a fifth.
"""

from __future__ import annotations

import json
from pathlib import Path

from backend.base.command_line import CommandParser, run
from backend.base.errors import ModelFolderError
from backend.base.settings import Settings, load_settings
from backend.measures.evaluation import MIN_IMAGES, Evaluation
from backend.measures.interval import interval_of
from backend.queue.training_queue import TrainingQueue
from backend.rounds.accuracy import describe_measured
from backend.rounds.adapting_rule import max_seconds
from backend.rounds.validation_reading import project_progress
from backend.store import pruning
from backend.store.bodies import Bodies
from backend.store.body_meta import PRETRAINED, BodyComparison
from backend.store.project_record import pick_project, project_root
from backend.store.registry import Registry
from backend.web.controls import AUTOMATIC, LocalControls
from scripts.console.options import add_project_option


def main() -> int:
    """List versions or bodies, promote a version, choose the start, or adapt again."""
    parser = CommandParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    listing = commands.add_parser("list", help="all versions, oldest first", description=__doc__)
    listing.add_argument("--json", action="store_true", help="print all metadata as JSON")
    promotion = commands.add_parser("promote", help="put a version in service", description=__doc__)
    promotion.add_argument("version", help="the version's name, for example r0003")
    bodies = commands.add_parser(
        "bodies", help="all adapted bodies, oldest first", description=__doc__
    )
    start = commands.add_parser(
        "start", help="choose what full training starts from", description=__doc__
    )
    start.add_argument("body", help=f"a body, for example a0001, or {PRETRAINED}, or {AUTOMATIC}")
    again = commands.add_parser("adapt", help="adapt a body again", description=__doc__)
    add_project_option(parser, listing, promotion, bodies, start, again)
    arguments = parser.parse_args()
    settings = load_settings()
    project_id = pick_project(settings.model_dir, arguments.project)
    if arguments.command == "list":
        _list(settings, project_id, as_json=arguments.json)
    elif arguments.command == "bodies":
        _list_bodies(Bodies(project_root(settings.model_dir, project_id)))
    elif arguments.command == "start":
        _set_start(settings, project_id, arguments.body)
    elif arguments.command == "adapt":
        _adapt_again(settings, project_id)
    else:
        _promote(settings, project_id, arguments.version)
    return 0


def _promote(settings: Settings, project_id: int, version: str) -> None:
    queue = TrainingQueue(settings.redis_url.get_secret_value())
    meta = LocalControls(settings, queue).promote(project_id, version)
    progress = project_progress(settings, project_root(settings.model_dir, project_id))
    print(
        f"{meta.version} is in service ({describe_measured(meta.validation, progress)}); "
        "the ranker now reorders Label Studio's open tasks"
    )


def _set_start(settings: Settings, project_id: int, requested: str) -> None:
    bodies = Bodies(project_root(settings.model_dir, project_id))
    before = bodies.usable_start().name
    queue = TrainingQueue(settings.redis_url.get_secret_value())
    name = LocalControls(settings, queue).set_start(project_id, requested).name
    if requested == AUTOMATIC:
        print("the loop chooses the start again after each adaptation")
    if name == before:
        print(f"full training already starts from {_describe_start(name)}")
    else:
        print(
            f"full training now starts from {_describe_start(name)}; the trainer trains a new "
            "version as soon as it is free, and the current version stays in service until then"
        )
    if name != PRETRAINED and (refused := bodies.read_meta(name).refused):
        print(f"note: {name} was refused after its adaptation: {refused}")


def _adapt_again(settings: Settings, project_id: int) -> None:
    queue = TrainingQueue(settings.redis_url.get_secret_value())
    LocalControls(settings, queue).adapt_again(project_id)
    print(
        f"another adaptation is requested, for at most {max_seconds(settings.adapt) / 60:g} "
        "minutes; `python -m scripts.status` shows when it runs"
    )


def _describe_start(name: str) -> str:
    return "the pre-trained weights" if name == PRETRAINED else name


def _list(settings: Settings, project_id: int, *, as_json: bool) -> None:
    root = project_root(settings.model_dir, project_id)
    sound, broken = Registry(root).versions()
    unknown: ModelFolderError | None = None
    try:
        current = Registry(root).current()
    except ModelFolderError as error:  # users need the list to repair the folder
        current, unknown = None, error
    if as_json:
        print(json.dumps([meta.model_dump(mode="json") for meta in sound], indent=2))
        return
    print("version  labels  validation (95 % interval)    test  created at")
    for meta in sound:
        accuracy = _describe_interval(meta.validation) if meta.validation else "-"
        test = f"{meta.test.accuracy:.1%}" if meta.test else "-"
        note = "in service" if current and meta.version == current.version else meta.refused or ""
        if meta.pruned_at is not None:
            note = f"pruned; {note}".removesuffix("; ")
        print(
            f"{meta.version:7}  {meta.labels:6,}  {accuracy:>25}  {test:>6}  "
            f"{meta.created_at}  {note}".rstrip()
        )
    for name, reason in broken.items():
        print(f"{name:7}  skipped: {reason}")
    if not sound and not broken:
        print("no version yet: the first one is trained once images are labeled")
    if unknown is not None:
        raise unknown
    if notice := pruning.notice(root, sound, settings.keep_versions):
        print(f"note: {notice}")


def _list_bodies(bodies: Bodies) -> None:
    sound, broken = bodies.all()
    made_from = {meta.name: Path(meta.made_from).name for meta in sound}  # weights may be a path
    width = max(map(len, ("made from", *made_from.values())))
    if not sound and not broken:
        print("no adapted body yet: see ADAPT in docs/settings.md")
    else:
        print(f"{'body':7}  {'made from':{width}}  {'images':>9}  {'minutes':>7}  {'accuracy':>14}")
    start = bodies.usable_start().name
    for meta in sound:
        note = "next start" if meta.name == start else ""
        if meta.refused:
            note = f"{note}; refused: {meta.refused}".removeprefix("; ")
        if meta.pruned_at is not None:
            note = f"pruned; {note}".removesuffix("; ")
        compared = _describe_comparison(meta.comparison)
        print(
            f"{meta.name:7}  {made_from[meta.name]:{width}}  {meta.n_images:9,}  "
            f"{meta.seconds / 60:7.0f}  {compared:>14}  {note}".rstrip()
        )
    for name, reason in broken.items():
        print(f"{name:7}  skipped: {reason}")
    if fault := bodies.start_fault():
        print(f"note: full training starts from the pre-trained weights, because {fault}")
    elif start == PRETRAINED and (sound or broken):
        print("note: full training starts from the pre-trained weights")


def _describe_comparison(found: BodyComparison | None) -> str:
    if found is None:
        return "not compared"
    return f"{found.accuracy_before:.1%} -> {found.accuracy_after:.1%}"


def _describe_interval(validation: Evaluation) -> str:
    if validation.images < MIN_IMAGES:
        return f"too few images ({validation.images})"
    low, high = interval_of(validation.accuracy, validation.images)
    return f"{validation.accuracy:.1%} ({low:.1%} to {high:.1%})"


if __name__ == "__main__":
    run(main)
