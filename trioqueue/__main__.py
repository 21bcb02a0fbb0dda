"""python -m trioqueue"""

from trioqueue.cli import main

main()
