"""Id -> row: the index, the rows, their widths and the kernels that read and train them."""
