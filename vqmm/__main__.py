"""python -m vqmm"""

from vqmm.cli import main

main()
