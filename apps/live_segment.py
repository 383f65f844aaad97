#!/usr/bin/env python3
"""``rdd-deploy live`` as a script: show a bundle on a camera, video, stream, folder of images, or the procedural
streets.
"""

import sys

if __name__ == "__main__":
    try:
        from rdd_deploy.cli import COMMANDS, start

        start(COMMANDS["live"][0])
    except KeyboardInterrupt:  # during the first imports
        print("interrupted", file=sys.stderr)
        sys.exit(130)
