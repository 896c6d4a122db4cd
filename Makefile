# pg_mill: a PostgreSQL database that is its own data pipeline.
#
#   make            the library and the gateway       make install       install both
#   make deps       what building needs, on Debian    make installcheck  regression tests, running server
#   make demo       the main job, on a private server make demo-stop     end what demo left running
#   make test       every test                        make test-fast     without the real Kafka
#   make test-headers  compiles for 16, 17 and 18     make test-matrix   test-fast on 16, 17 and 18 (root)
#   make test-assert   test-fast with assertions on
#
# With PG_MAJOR=17, or PG_CONFIG=/path/to/pg_config, for another PostgreSQL than the PATH's.

EXTENSION = pg_mill
MODULE_big = pg_mill
# Rooms: each includes headers of earlier ones only; test/rooms checks it.
ROOMS = core broker decode stream write ingest window aggregate job
OBJS = $(patsubst %.c,%.o,src/init.c $(foreach room,$(ROOMS),$(wildcard src/$(room)/*.c)))
DATA = $(wildcard sql/pg_mill--*.sql)
PGFILEDESC = "pg_mill - Kafka topics into tables, exactly once"
PG_CPPFLAGS = -I$(srcdir)/src
# Core's headers are not held to our warnings.
PG_CFLAGS = $(if $(WERROR),$(WARNINGS) -Werror -isystem $(includedir_server))
WARNINGS = -Wextra -Wno-unused-parameter -Wno-sign-compare -Wmissing-prototypes -Wstrict-prototypes -Wshadow -Wvla

REGRESS = $(patsubst test/sql/%.sql,%,$(sort $(wildcard test/sql/*.sql)))
REGRESS_OPTS = --inputdir=test --encoding=UTF8
ISOLATION = $(patsubst test/specs/%.spec,%,$(sort $(wildcard test/specs/*.spec)))
ISOLATION_OPTS = --inputdir=test --outputdir=. --encoding=UTF8
EXTRA_CLEAN = mill_gateway src/gateway/*.o

# Another librdkafka than the system's: make LIBRDKAFKA_PREFIX=/opt/librdkafka
ifdef LIBRDKAFKA_PREFIX
RDKAFKA_CFLAGS = -I$(LIBRDKAFKA_PREFIX)/include
RDKAFKA_LIBS = -L$(LIBRDKAFKA_PREFIX)/lib -Wl,-rpath,$(LIBRDKAFKA_PREFIX)/lib -lrdkafka
else
RDKAFKA_LIBS = -lrdkafka
endif

ifdef PG_MAJOR
PG_CONFIG ?= /usr/lib/postgresql/$(PG_MAJOR)/bin/pg_config
export PG_CONFIG PG_MAJOR
endif
PG_CONFIG ?= pg_config
PGXS := $(shell $(PG_CONFIG) --pgxs 2>/dev/null)
ifneq ($(PGXS),)
include $(PGXS)

all: mill_gateway
install: install-gateway
uninstall: uninstall-gateway
$(OBJS): $(wildcard src/*/*.h)
else
all install installcheck:
	@echo "$(PG_CONFIG) not found: run 'make deps' first, or give PG_CONFIG=/path/to/pg_config"; exit 1
endif

# The gateway: a program of its own, beside the library. No Postgres header.
mill_gateway: $(wildcard src/gateway/*.c src/gateway/*.h)
	$(CC) -std=gnu11 -O2 -g -Wall -Wextra -Wmissing-prototypes -Wstrict-prototypes -Wshadow -Wvla \
		$(if $(WERROR),-Werror) $(RDKAFKA_CFLAGS) -Isrc -o $@ $(filter %.c,$^) $(RDKAFKA_LIBS) -lcrypto -lpthread

.PHONY: install-gateway uninstall-gateway
install-gateway: mill_gateway
	$(INSTALL_PROGRAM) mill_gateway '$(DESTDIR)$(pkglibdir)/mill_gateway'
uninstall-gateway:
	rm -f '$(DESTDIR)$(pkglibdir)/mill_gateway'

# What follows works before there is a pg_config.
.PHONY: deps demo demo-stop test test-fast test-headers test-matrix test-assert test-programs fresh-machine
deps:
	@bash test/deps build
demo:
	@bash examples/demo
demo-stop:
	@bash examples/demo stop
test:
	@bash test/run
test-fast:
	@bash test/run --fast
test-headers:
	@bash test/headers
test-matrix:
	@bash test/matrix
test-assert:
	@bash test/assert
fresh-machine:
	@bash test/fresh-machine

# The tests' own programs: an embedded broker, and a producer with what else they need of Kafka.
TEST_CC = $(CC) -std=gnu11 -O2 -g -Wall $(if $(WERROR),$(WARNINGS) -Werror) $(RDKAFKA_CFLAGS)
test-programs: build/mock_broker build/kafka_tool
build/mock_broker: test/lib/mock_broker.c
	@mkdir -p build
	$(TEST_CC) -o $@ $^ $(RDKAFKA_LIBS)
build/kafka_tool: $(addprefix test/lib/,kafka_tool.c generate.c produce.c consume.c admin.c) test/lib/kafka_tool.h
	@mkdir -p build
	$(TEST_CC) -o $@ $(filter %.c,$^) $(RDKAFKA_LIBS)

# Measurements, those that need one against a real Kafka; results in build/bench.
BENCHES = bench-ingest bench-latency bench-memory bench-idle bench-aggregate bench-jobs
.PHONY: bench $(BENCHES)
bench: $(BENCHES)
$(BENCHES): bench-%:
	@bash bench/$*

# The tests with random faults, for hours: make test-long KILLS=2000 MILL_CASES=20000
.PHONY: test-long
test-long:
	@KILLS=$(or $(KILLS),2000) MILL_CASES=$(or $(MILL_CASES),20000) bash test/run test/t/100_chaos_kafka.pl test/t/300_aggregate_property.pl test/t/310_aggregate_crash.pl
