import subprocess
import sys

import caffe_margin.torch as cmt


def test_without_torch_the_message_says_what_to_install():
    code = "import sys\nsys.modules['torch'] = None\nimport caffe_margin.torch"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "ModuleNotFoundError: caffe_margin.torch needs PyTorch: pip install 'caffe_margin[torch]'"
    )


def test_numba_stays_out():
    code = "import sys, caffe_margin.torch\nprint('numba' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_dir_shows_the_api():
    for module in (cmt, cmt.functional):
        assert set(module.__all__) <= set(dir(module))
    assert [name for name in dir(cmt) if not name.startswith("__")] == sorted(cmt.__all__)
