"""Preparers: what the owners of a data set distribute, made the raw layout by a function ``prepare(source, target)``.

``source`` is what was downloaded, an archive or a folder, ``target`` the folder to make; ``workers`` processes write
the cases (0: this one does), and ``incomplete`` takes other counts than the owners state. A FileNotFoundError says what
to get where; a ValueError names the counts, sizes, labels or geometry that are not what they should be.
"""
