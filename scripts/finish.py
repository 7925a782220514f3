"""Have the model label the rest of the images, after people have checked a random sample.

    python -m scripts.finish
    python -m scripts.finish --max-error 0.02
    python -m scripts.finish --cancel

Without options, this command shows how far the current try is, or what the model could label now.
With --max-error, it shows the plan. Once you agree, people are asked to label the sample before all
other images, and without the model's guess. The sample contains random images that the model is
confident about. If people find few enough errors, the model labels the other images that it is
confident about. With 95 % confidence, at most the given share of these labels is wrong.
"""

from __future__ import annotations

import sys
from argparse import ArgumentTypeError, Namespace

from backend.base.command_line import CommandParser, run
from backend.base.errors import FinishError
from backend.base.settings import load_settings
from backend.measures.finish_plan import FinishPlan
from backend.queue.training_queue import TrainingQueue
from backend.rounds import finish
from backend.rounds.finish_progress import finish_progress, finish_sentence, percent, promise
from backend.rounds.loop import Loop, push_lock
from backend.rounds.observe import read_everything_changed
from backend.rounds.prospect import OUTLOOK_ERRORS, Prospect, look_ahead
from backend.store.project_record import pick_project
from scripts.console.options import add_project_option, open_chosen
from scripts.console.progress_bars import progress_bar


def main() -> int:
    """Show what the model could label, begin a try, show how far the try is, or cancel it."""
    arguments = _parse()
    settings = load_settings()
    with progress_bar() as progress:
        project, loop = open_chosen(settings, arguments.project, progress)
        progress("reading annotations", 0, 0)
        read_everything_changed(project, loop.store)
        asking = loop.finish_store.asking()
        prospect = None if asking or arguments.cancel else look_ahead(loop, progress)
    act = _cancel if arguments.cancel else _follow
    is_changed = act(loop, prospect, arguments)
    if is_changed:  # the ranker does the rest
        project_id = pick_project(settings.model_dir, arguments.project)
        TrainingQueue(settings.redis_url.get_secret_value()).request_look(project_id)
    return 0


def _follow(loop: Loop, prospect: Prospect | None, arguments: Namespace) -> bool:
    """Print how far the last try is, and begin a try if the person confirms it.

    Returns whether a try has begun. Raises FinishError if the person wants a try that cannot begin.
    """
    _print_progress(loop)
    if prospect is None:
        if arguments.max_error is not None:
            raise FinishError(
                "no other try can begin now: people are labeling this acceptance sample. Wait for "
                "the result, or first give its images back with --cancel"
            )
        return False
    print("\n".join(_table(prospect, arguments.max_error)))
    if arguments.max_error is None:
        print("To begin, add --max-error and the largest share of wrong labels that you accept")
        return False
    plan = prospect.plan(arguments.max_error)
    if plan is None:
        raise FinishError(prospect.advice(arguments.max_error))
    question = (
        f"Have people label {plan.n_sample:,} random images without a guess, before all others?"
    )
    if arguments.yes or _is_confirmed(question):
        _begin(loop, plan)
        return True
    return False


def _parse() -> Namespace:
    parser = CommandParser(description=__doc__)
    parser.add_argument(
        "--max-error",
        type=_share,
        metavar="SHARE",
        help="the largest share of wrong labels that you accept, for example 0.02",
    )
    parser.add_argument("--yes", action="store_true", help="do not ask for confirmation")
    parser.add_argument(
        "--cancel",
        action="store_true",
        help="give the images back: people may be asked about all of them again",
    )
    add_project_option(parser)
    arguments = parser.parse_args()
    if arguments.cancel and arguments.max_error is not None:
        parser.error("--cancel cannot be combined with --max-error")
    return arguments


def _share(text: str) -> float:
    """Parse an argument as a share of wrong labels."""
    try:
        share = float(text)
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is not a number: 2 % is 0.02") from None
    if share == 0:
        raise ArgumentTypeError("no finite sample proves that no label is wrong: 2 % is 0.02")
    if not 0 < share < 1:
        raise ArgumentTypeError(f"{text} is not between 0 and 1: 2 % is 0.02")
    return share


def _print_progress(loop: Loop) -> None:
    """Print how far the last try is, if there was one."""
    progress = finish_progress(loop.settings, loop.root)
    if progress is None or not (sentence := finish_sentence(progress)):
        return
    print(f"{sentence[0].upper()}{sentence[1:]}")
    if progress.state == "asking":
        print(
            f"If it passes, the model labels {progress.model_labels:,} images ({promise(progress)})"
        )


def _table(prospect: Prospect, max_error: float | None) -> list[str]:
    """Return lines that state what the model could label now, for each share of wrong labels."""
    shares = sorted({*OUTLOOK_ERRORS, *([] if max_error is None else [max_error])})
    lines = [
        f"{prospect.version} could label these of the {len(prospect.image_ids):,} images that no "
        "one has been asked about:"
    ]
    for share in shares:
        plan = prospect.plan(share)
        found = "none yet" if plan is None else _describe(plan)
        lines.append(f"  at most {percent(share):>6} wrong: {found}")
    return lines


def _describe(plan: FinishPlan) -> str:
    return (
        f"{plan.n_by_model:,} images, after people have labeled {plan.n_sample:,} with at most "
        f"{_count(plan.allowed_errors, 'error')}; passes with a probability of about "
        f"{plan.pass_probability:.0%}"
    )


def _is_confirmed(question: str) -> bool:
    """Ask a question; return whether the answer is yes."""
    if not sys.stdin.isatty():
        raise FinishError("to continue without confirmation, add --yes")
    if input(f"{question} [y/N] ").strip().casefold() in ("y", "yes"):
        return True
    print("nothing was changed")
    return False


def _begin(loop: Loop, agreed: FinishPlan) -> None:
    """Begin the try with the annotations as they are now.

    Raises FinishError if people would have to label more images than the person has agreed to.
    """
    with push_lock(loop):
        read_everything_changed(loop.project, loop.store)
        prospect = look_ahead(loop, lambda *_: None)
        plan = prospect.plan(agreed.max_error)
        if plan is None:
            raise FinishError(prospect.advice(agreed.max_error))
        if plan.n_sample > agreed.n_sample:
            raise FinishError(
                f"the plan has just changed: people would have to label {plan.n_sample:,} images "
                f"instead of {agreed.n_sample:,}. Nothing was changed; run the command again"
            )
        begun = finish.begin(loop, plan, prospect)
    print(
        f"People are asked to label {begun.n_sample:,} images. With at most "
        f"{_count(begun.allowed_errors, 'error')}, the model labels {begun.n_left:,} images. Run "
        "this command again to see how far it is"
    )


def _cancel(loop: Loop, _: Prospect | None, arguments: Namespace) -> bool:
    """Give back the images of the last try if the person confirms it.

    Returns whether the images were given back. Raises FinishError if there is nothing to cancel.
    """
    current = loop.finish_store.current()
    if current is not None and not arguments.yes:
        question = "Give back the images of this try?"
        if current.state == "passed":
            question = f"Give up the promise and the model's labels of {current.n_left:,} images?"
        if not _is_confirmed(question):
            return False
    with push_lock(loop):
        finish.cancel(loop)
    print(
        "The images of this try can be queried again. The next sample is larger, because all tries "
        "share the risk of 5 % that a promise is broken"
    )
    return True


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


if __name__ == "__main__":
    run(main)
