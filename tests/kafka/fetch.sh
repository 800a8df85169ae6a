#!/usr/bin/env bash
# Fetches Apache Kafka from Maven Central, and a Kafka client in Python from PyPI, for the tests and the demo.
#
#   fetch.sh            install them, or do nothing where they are installed already
#   fetch.sh --check    say whether they are installed; download nothing
#
# Nothing here is part of this project or redistributed with it. Tests that need it are skipped, and say so,
# where it is missing. A broker is started with broker.sh; it runs on any Java 11 or newer.
#
# Environment: KAFKA_DIR (default target/kafka), PYTHON (default python3; 3.11 to 3.13), MAVEN (default mvn); the
# settings of Maven and pip choose where the packages come from.
# Exit status: 0 installed; 2 wrong usage; 3 not installed (--check); 4 they cannot be had here; 1 anything else.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
label=kafka
dir=${KAFKA_DIR:-$root/target/kafka}
python=${PYTHON:-python3}
maven=${MAVEN:-mvn}
pins=("$here/jars.sha256" "$here/requirements.txt")
size='65 MB'
copy=org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies
. "$here/../fetch.sh"

works() { "$dir/venv/bin/python" -c '' 2>/dev/null && command -v java >/dev/null; }

may() {
    command -v java >/dev/null || fail 4 "no java: install a Java runtime (Debian: openjdk-17-jre-headless)"
    command -v "$maven" >/dev/null || fail 4 "no $maven: install Maven (Debian: maven)"
}

bring() {
    say "Apache Kafka and a Kafka client in Python, about 65 MB from their package indexes, to $dir"
    say "why: the audit log is sent to Kafka, and the tests read it there with others' programs"
    rm -rf "$dir"
    "$maven" --batch-mode --quiet --strict-checksums -f "$here/pom.xml" "$copy" \
        -DincludeScope=runtime -DoutputDirectory="$dir/jars" </dev/null ||
        fail 4 "Kafka cannot be had here (see Maven's message above); tests that need it will be skipped"
    (cd "$dir/jars" && sha256sum --check --strict --quiet "$here/jars.sha256") ||
        fail 1 "what Maven brought is not what tests/kafka/jars.sha256 names"
    (($(find "$dir/jars" -type f | wc -l) == $(wc -l <"$here/jars.sha256"))) ||
        fail 1 "Maven brought more than tests/kafka/jars.sha256 names"
    make_venv "$here/requirements.txt"
    say "ready: $(java -version 2>&1 | sed -n 1p) with $(wc -l <"$here/jars.sha256") jars in $dir"
}

main "$@"
