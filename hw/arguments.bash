# Sourced by the scripts of this folder: how each of them answers --help, a wrong count of arguments, and a refusal.

fail() {
  echo "error: $1" >&2
  exit 2
}

# check_arguments USAGE LEAST MOST ARGUMENT...: print USAGE and end, unless LEAST to MOST arguments follow.
check_arguments() {
  local usage=$1 least=$2 most=$3
  shift 3
  if [[ ${1:-} == -h || ${1:-} == --help ]]; then
    echo "$usage"
    exit 0
  fi
  if (($# < least || $# > most)); then
    echo "$usage" >&2
    exit 2
  fi
}
