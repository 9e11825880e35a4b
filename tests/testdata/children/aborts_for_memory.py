"""Ends as a C++ program does that runs out of memory where nothing catches it."""

from __future__ import annotations

import os

os.write(2, b"terminate called after throwing an instance of 'std::bad_alloc'\n")
os.abort()
