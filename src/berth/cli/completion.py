"""berth completion: the script of a shell. Each asks `berth __complete`, so none knows a command by itself."""

import sys

from berth.cli.command import parse_command
from berth.cli.flags import Misuse, Syntax

TYPE_CHECKING = False
if TYPE_CHECKING:
    from berth.cli.main import Invocation

SYNTAX = {"completion": Syntax("bash|zsh|fish", at_least=1, at_most=1)}

_BASH = r"""# bash completion for berth; made by: berth completion bash
_berth() {
    local line=${COMP_LINE:0:COMP_POINT} index word current typed prefix answer candidate
    local -a words=() files=()
    # bash takes words apart at = and : too; what no space parts is one word here again.
    for ((index = 0; index <= COMP_CWORD; index++)); do
        word=${COMP_WORDS[index]}
        if ((index == 0)) || [[ $line == [[:space:]]* ]]; then
            line=${line#"${line%%[![:space:]]*}"}
            words+=("")
        fi
        [[ $line == "$word"* ]] || word=$line # the cursor stands within it
        words[${#words[@]} - 1]+=$word
        line=${line#"$word"}
    done
    current=${words[${#words[@]} - 1]}
    typed=${current##*[=:]}
    [[ $COMP_WORDBREAKS == *:* && $COMP_WORDBREAKS == *=* ]] || typed=$current
    prefix=${current%"$typed"}
    COMPREPLY=()
    answer=$(command berth __complete "${words[@]:1}" 2>/dev/null)
    while IFS=$'\t' read -r candidate _; do
        case $candidate in
        '') ;;
        :files) mapfile -t files < <(compgen -f -- "$typed") ;;
        :directories) mapfile -t files < <(compgen -d -- "$typed") ;;
        *)
            COMPREPLY+=("${candidate#"$prefix"}")
            [[ $candidate == *[=:,] ]] && compopt -o nospace 2>/dev/null
            ;;
        esac
    done <<<"$answer"
    if ((${#files[@]})); then
        ((${#COMPREPLY[@]})) || compopt -o filenames 2>/dev/null
        COMPREPLY+=("${files[@]}")
    fi
}
complete -F _berth berth
"""

_ZSH = r"""#compdef berth
# zsh completion for berth; made by: berth completion zsh
_berth() {
    local line word
    local -a spaced unspaced
    local -i files=0 directories=0
    for line in "${(@f)$(command berth __complete "${(@Q)words[2,CURRENT-1]}" "${(Q)PREFIX}" 2>/dev/null)}"; do
        word=${line%%$'\t'*}
        case $line in
        '') continue ;;
        :files) files=1; continue ;;
        :directories) directories=1; continue ;;
        *$'\t'*) line=${word//:/\\:}:${line#*$'\t'} ;;
        *) line=${word//:/\\:} ;;
        esac
        case $word in
        *[=:,]) unspaced+=("$line") ;;
        *) spaced+=("$line") ;;
        esac
    done
    ((${#spaced})) && _describe -t words berth spaced
    ((${#unspaced})) && _describe -t words berth unspaced -S ''
    if ((files || directories)); then
        [[ $PREFIX == --*=* ]] && compset -P '*='
        ((files)) && _files || _files -/
    fi
}
if [[ $funcstack[1] == _berth ]]; then
    _berth "$@"
else
    compdef _berth berth
fi
"""

_FISH = r"""# fish completion for berth; made by: berth completion fish
function __berth_complete
    set -l words (commandline -opc)
    set -l current (commandline -ct)
    for line in (command berth __complete $words[2..-1] "$current" 2>/dev/null)
        switch $line
            case :files
                __fish_complete_path "$current"
            case :directories
                __fish_complete_directories "$current" ''
            case '*'
                printf '%s\n' $line
        end
    end
end
complete -c berth -e
complete -c berth -f -k -a '(__berth_complete)'
"""

_SCRIPTS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}


def completion(call: "Invocation") -> int:
    """berth completion"""
    shell = parse_command(call, SYNTAX).arguments[0]
    if shell not in _SCRIPTS:
        raise Misuse(f"{shell!r} is none of the shells that berth knows: bash, zsh, fish")
    sys.stdout.write(_SCRIPTS[shell])
    return 0
