# SPDX-License-Identifier: Apache-2.0
"""For the download of ncnn's sources alone. Their setup.py takes the day on which it runs for the version, and pip refuses
a package whose version is not the one that was asked for: so the day is the release's."""

import os
import time

time.strftime = lambda *_: os.environ["NCNN_RELEASE"]
