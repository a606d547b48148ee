"""``python -m caffe_margin`` is the command ``caffe-margin``."""

import sys

try:
    from caffe_margin.cli import main
except KeyboardInterrupt:
    sys.exit(130)

sys.exit(main())
