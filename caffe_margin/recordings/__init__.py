"""What Caffe, or this layer, computed: written, read, replayed, compared."""
