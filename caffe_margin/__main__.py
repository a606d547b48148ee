"""``python -m caffe_margin`` is the command ``caffe-margin``."""

import sys

from caffe_margin.cli import main

sys.exit(main())
