#!/bin/sh
# Plays the user's ssh without a network: the master is a file, a command runs here.
while [ $# -gt 0 ]; do
  case "$1" in
    -S) socket=$2; shift 2 ;;
    -O) exit 0 ;;
    -N) master=1; shift ;;
    -o) shift 2 ;;
    --) shift 2; break ;;
    *) shift ;;
  esac
done
if [ -n "$master" ]; then
  : > "$socket"
  exec sleep 600
fi
PATH=$EDGEVIT_TEST_BOARD_PATH exec sh -c "$*"
