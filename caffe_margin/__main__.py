"""``python -m caffe_margin`` is the command ``caffe-margin``, which starts here too."""

import sys


def main() -> int:
    """Run the command; Ctrl-C ends it quietly from the first import on."""
    try:
        from caffe_margin import cli

        return cli.main()
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
