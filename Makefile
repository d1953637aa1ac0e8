# The commands of CONTRIBUTING.md, each a tox environment.  ARGS goes to pytest.
.PHONY: quick test lint

quick:
	tox -e quick -- $(ARGS)

test:
	tox -e test -- $(ARGS)

lint:
	tox -e lint
