"""`shardpress completion bash|zsh|fish`: a script for the shell, with every job and option in it.

    source <(shardpress completion bash)        in ~/.bashrc; zsh alike
    shardpress completion fish > ~/.config/fish/completions/shardpress.fish

The words are written into the script, so that pressing Tab starts no Python.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Annotated

import typer

from jobs import cli
from pipeline.errors import ConfigError

SHELLS = ("bash", "zsh", "fish")
# zsh runs bash's completion once its own is up, which it is not where ~/.zshrc says nothing about it.
_ZSH = """(( $+functions[compdef] )) || { autoload -U compinit && compinit -i }
autoload -U +X bashcompinit && bashcompinit
"""
_BASH = """_shardpress() {{
  local current="${{COMP_WORDS[COMP_CWORD]}}" words=""
  if [ "$COMP_CWORD" -eq 1 ]; then
    words="{jobs} --help --version"
  else
    case "${{COMP_WORDS[1]}}" in
{cases}
    esac
  fi
  case "$current" in
    -*) COMPREPLY=($(compgen -W "$words" -- "$current")) ;;
    *) if [ "$COMP_CWORD" -eq 1 ]; then COMPREPLY=($(compgen -W "$words" -- "$current"));
       else COMPREPLY=($(compgen -f -- "$current")); fi ;;
  esac
}}
complete -o filenames -F _shardpress shardpress
"""


def completion(
    shell: Annotated[str, typer.Argument(metavar="SHELL", help="bash, zsh or fish.")],
) -> int:
    """Print a completion script for a shell."""
    if shell not in SHELLS:
        raise ConfigError(f"completion {shell}: expected one of {', '.join(SHELLS)}")
    print({"bash": _bash, "zsh": lambda: _ZSH + _bash(), "fish": _fish}[shell]())
    return cli.OK


def options_of(job: str) -> dict[str, str]:
    """Long option -> help, of one job, in the order of its --help."""
    module = importlib.import_module(f"jobs.{job}")
    command = typer.main.get_command(cli.app_of(getattr(module, job), job))
    found = {
        name: str(getattr(parameter, "help", "") or "")
        for parameter in command.params
        for name in parameter.opts
        if name.startswith("--")
    }
    return found | {"--help": "Show this message and exit."}


def _bash() -> str:
    from jobs.__main__ import JOBS

    cases = "\n".join(f'      {job}) words="{" ".join(options_of(job))}" ;;' for job in JOBS)
    return _BASH.format(jobs=" ".join(JOBS), cases=cases)


def _fish() -> str:
    from jobs.__main__ import JOBS

    lines = [
        f"complete -c shardpress -n __fish_use_subcommand -f -a {job} -d {_quoted(text)}" for job, text in JOBS.items()
    ]
    for job in JOBS:
        seen = f"'__fish_seen_subcommand_from {job}'"
        lines += [
            f"complete -c shardpress -n {seen} -l {name.removeprefix('--')} -d {_quoted(text)}"
            for name, text in options_of(job).items()
        ]
    return "\n".join(lines)


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run_command(completion, argv, "python -m jobs.completion")


if __name__ == "__main__":
    raise SystemExit(main())
