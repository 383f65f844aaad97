#!/usr/bin/env python3
"""``rdd-deploy live`` as a script: show a bundle on a camera, video, stream, folder of images, or the procedural streets."""

import sys

if __name__ == "__main__":
    try:
        from rdd_deploy.cli import start

        start("live")
    except KeyboardInterrupt:  # during the first imports
        print("interrupted", file=sys.stderr)
        sys.exit(130)
