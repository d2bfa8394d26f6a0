#!/bin/sh
# A C++ compiler whose flags come last, to override those of setup.py: see `make sanitize`.
exec c++ "$@" -O1 -g1 -fno-wrapv -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all
