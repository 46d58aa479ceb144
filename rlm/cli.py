"""The command line: plan, run, table, ask, generate, score, ui, data (imports nothing heavy at start)."""

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from rlm import __version__, arguments
from rlm.errors import ConfigError, StageError
from rlm.limits import shown
from rlm.output import flush_output, take_any_output
from rlm.secrets import hidden_secrets

QUIET = {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "TOKENIZERS_PARALLELISM": "false"}
"""Environment of this process and those it starts: only our own progress is shown."""
REFUSED = 2
"""Exit code of bad input: nothing was started."""
PROCESSES = 4096
"""The most of anything that a machine is asked to do at a time."""
OWN_FAULT = 70
"""Exit code where rlm itself is wrong (EX_SOFTWARE of sysexits.h)."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        the exit code: 0 done, 1 a stage failed, or its report or the output could not be written, 2 bad input,
        70 a fault of rlm's own, 130 interrupted.
    """
    take_any_output()
    with hidden_secrets():
        return _main(argv)


def _main(argv: Sequence[str] | None) -> int:
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    options = parser().parse_args(argv)
    if options.command is None:
        parser().print_help()
        return REFUSED
    # A scheduler's or a container's stop is an interruption like Ctrl-C: finished work is kept, and it says so.
    signal.signal(signal.SIGTERM, _interrupt)
    code = _call(options)
    unwritten = flush_output()
    if unwritten:
        print(f"rlm {options.command}: {unwritten}", file=sys.stderr)
    return code or int(unwritten is not None)


def _call(options: argparse.Namespace) -> int:
    try:
        module = import_module(f"rlm.commands.{options.command}")
        return int(module.main(options) or 0)
    except (ConfigError, StageError, ValueError, OSError) as error:
        if os.environ.get("RLM_TRACEBACK"):
            raise
        print(f"rlm {options.command}: {_text(error)}", file=sys.stderr)
        return REFUSED
    except KeyboardInterrupt:
        print(f"rlm {options.command}: interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        if os.environ.get("RLM_TRACEBACK"):
            raise
        what = f"{type(error).__name__}: {_text(error)}"
        print(f"rlm {options.command}: {what} (a fault of rlm; RLM_TRACEBACK=1 shows where)", file=sys.stderr)
        return OWN_FAULT


def _interrupt(number: int, frame: Any) -> None:
    raise KeyboardInterrupt


def _text(error: BaseException) -> str:
    text = str(error) or type(error).__name__
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        text = f"{error.filename}: {error.strerror}"
    lines = [shown(line, 2000) for line in text.split("\n") if line]
    if len(lines) == 1:
        return lines[0]
    return f"{len(lines)} mistakes\n" + "\n".join(f"  {line}" for line in lines)


def parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    top = argparse.ArgumentParser(
        prog="rlm",
        description="Ablations and benchmarks of retrieval-augmented language models.",
        epilog=_examples(
            "rlm plan experiments/realm_table2.yaml", "rlm run experiments/realm_table2.yaml --scale tiny"
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"rlm {__version__}")
    commands = top.add_subparsers(dest="command", metavar="COMMAND")

    plan = _command(
        commands,
        "plan",
        "show the stages of every row: cached, shared or to run, and what they will cost",
        "rlm plan experiments/realm_table2.yaml",
        "rlm plan experiments/realm_table2.yaml --scale small --data data --rows REALM --jobs 1",
    )
    _table_options(plan)
    _runtime_options(plan)

    run = _command(
        commands,
        "run",
        "run each distinct stage once and print the table",
        "rlm run experiments/realm_table2.yaml --scale tiny",
        "rlm run experiments/realm_table2.yaml --scale small --data data --seeds 0 --set pretrain.candidates=4",
    )
    _table_options(run)
    _runtime_options(run)
    run.add_argument("--dry-run", action="store_true", help="show the plan and stop")

    table = _command(
        commands,
        "table",
        "print the table of finished results",
        "rlm table experiments/realm_table2.yaml",
        "rlm table experiments/realm_table2.yaml --scale tiny --format latex --out table2.tex",
    )
    _table_options(table)
    table.add_argument("--format", choices=("markdown", "latex", "csv", "html"), default="markdown")
    table.add_argument("--out", type=arguments.file, metavar="FILE", help="write there instead of to standard output")

    ask = _command(
        commands,
        "ask",
        "answer a question and show why: passages, p(z|x), p(y|z,x), p(y|x)",
        'rlm ask finetune-0123456789abcdef "Where was Marie Curie born?"',
        'rlm ask pretrain-0123456789abcdef "Pierre was born in [MASK] ." --passage "Pierre was born in Paris ."',
    )
    ask.add_argument(
        "run", type=arguments.name, metavar="RUN", help="name of a finished stage's folder, or enough of its beginning"
    )
    ask.add_argument("question", type=arguments.words, metavar="QUESTION")
    ask.add_argument("--passage", type=arguments.words, metavar="TEXT", help="read this passage instead of retrieving")
    ask.add_argument(
        "--answer", type=arguments.words, metavar="TEXT", help="what [MASK] stands for (default: the model's best word)"
    )
    ask.add_argument("--top", type=arguments.positive, default=8, metavar="K", help="passages retrieved (default: 8)")
    _store_option(ask)

    generate = _command(
        commands,
        "generate",
        "go on from a prompt, looking up the neighbours of each finished chunk, and show them",
        'rlm generate retro_train-0123456789abcdef "Marie Curie was born in"',
        'rlm generate perplexity-0123456789abcdef "Marie Curie was born in" --tokens 64 --greedy --neighbours 4',
    )
    generate.add_argument(
        "run", type=arguments.name, metavar="RUN", help="name of a finished stage's folder, or enough of its beginning"
    )
    generate.add_argument("prompt", type=arguments.text, metavar="PROMPT", help='may be empty ("")')
    generate.add_argument(
        "--tokens", type=arguments.whole(1, 1_000_000), default=128, metavar="N", help="at most (default: 128)"
    )
    generate.add_argument(
        "--greedy", action="store_true", help="take the likeliest token each time, whatever the temperature and top-p"
    )
    generate.add_argument(
        "--temperature",
        type=arguments.number,
        default=1.0,
        metavar="T",
        help="divides the logits (default: 1.0)",
    )
    generate.add_argument(
        "--top-p",
        type=arguments.number,
        default=0.95,
        metavar="P",
        help="draw from the fewest likeliest tokens of this probability (default: 0.95)",
    )
    generate.add_argument("--seed", type=arguments.seed, default=0, help="of what is drawn (default: 0)")
    generate.add_argument(
        "--neighbours", type=arguments.count, metavar="K", help="of each chunk (default: as the run read)"
    )
    generate.add_argument(
        "--off", action="store_const", const=0, dest="neighbours", help="no neighbours, as --neighbours 0: RETRO[Off]"
    )
    _store_option(generate)

    score = _command(
        commands,
        "score",
        "score any system's predictions by exact match, with a 95 %% interval",
        "rlm score predictions.jsonl --answers answers.jsonl",
        "rlm score predictions.jsonl --answers curated_trec.test.jsonl --answer-kind regex",
    )
    score.add_argument(
        "predictions", type=arguments.path, metavar="PREDICTIONS", help='lines {"id" or "question", "prediction"}'
    )
    score.add_argument(
        "--answers", type=arguments.path, required=True, metavar="FILE", help='lines {"id", "question", "answers"}'
    )
    score.add_argument("--answer-kind", choices=("string", "regex"), help="in place of each line's own")

    ui = _command(
        commands,
        "ui",
        "open MLflow on the store",
        "rlm ui",
        "rlm ui --store runs --port 5001",
    )
    _store_option(ui)
    ui.add_argument(
        "--host", type=arguments.name, default="127.0.0.1", help="address to listen on (default: 127.0.0.1)"
    )
    ui.add_argument("--port", type=arguments.whole(1, 65535), default=5000)

    data = _command(
        commands,
        "data",
        "check a data folder, or fetch a data set into one",
        "rlm data check data",
        "rlm data fetch nq_open --out data",
    )
    actions = data.add_subparsers(dest="action", metavar="ACTION", required=True)
    check = _command(
        actions,
        "check",
        "read every file of a data folder and report what is wrong, by file and line",
        "rlm data check data",
        "rlm data check data/qa",
    )
    check.add_argument("folder", type=arguments.path, metavar="FOLDER")
    fetch = _command(
        actions,
        "fetch",
        "convert a data set from the Hugging Face hub, at a fixed revision",
        "rlm data fetch nq_open --out data",
        "rlm data fetch wikipedia --out data --limit 100000",
    )
    fetch.add_argument("dataset", choices=("nq_open", "web_questions", "wikipedia"))
    fetch.add_argument("--out", type=arguments.folder, required=True, metavar="FOLDER")
    fetch.add_argument("--limit", type=arguments.positive, metavar="N", help="records, from the first (default: all)")
    return top


def _command(commands: Any, name: str, summary: str, *examples: str) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        epilog=_examples(*examples),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    return command


def _examples(*examples: str) -> str:
    return "examples:\n" + "\n".join(f"  {example}" for example in examples)


def _table_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("table", type=arguments.path, metavar="TABLE", help="table file (YAML)")
    command.add_argument(
        "--scale", type=arguments.name, help="file in the folder scale/ beside the table (default: tiny)"
    )
    command.add_argument(
        "--data", type=arguments.folder, metavar="FOLDER", help="folder of the sources of kind `files`"
    )
    command.add_argument("--rows", type=arguments.names, default=(), metavar="A,B", help="only these rows")
    command.add_argument("--datasets", type=arguments.names, default=(), metavar="A,B", help="in place of the table's")
    command.add_argument("--seeds", type=arguments.seeds, default=(), metavar="0,1", help="in place of the table's")
    command.add_argument(
        "--set",
        type=arguments.text,
        action="append",
        default=[],
        metavar="A.B=C",
        dest="settings",
        help="lay over every row (repeatable)",
    )
    _store_option(command)


def _runtime_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--jobs", type=arguments.whole(1, PROCESSES), help="stages at a time (default: one per GPU, or per two cores)"
    )
    command.add_argument(
        "--threads", type=arguments.whole(1, PROCESSES), help="cores of one stage (default: an equal share)"
    )
    command.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    command.add_argument(
        "--devices",
        type=arguments.whole(1, PROCESSES),
        default=1,
        help="processes of one stage: training (DDP), writing a datastore; GPUs that search it",
    )
    command.add_argument("--force", action="store_true", help="start even what the forecast says cannot fit")
    command.add_argument(
        "--workers", type=arguments.whole(0, PROCESSES), default=0, help="data-loading processes of one training stage"
    )


def _store_option(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--store",
        type=arguments.folder,
        default=Path("runs"),
        metavar="FOLDER",
        help="folder of results (default: runs)",
    )


if __name__ == "__main__":
    raise SystemExit(main())
