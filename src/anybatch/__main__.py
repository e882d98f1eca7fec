"""`python -m anybatch` and `torchrun -m anybatch`."""

try:
    from anybatch.cli import main
except KeyboardInterrupt:
    raise SystemExit(130) from None

main()
