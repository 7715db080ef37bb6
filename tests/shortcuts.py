"""What a suite of thousands of gateways in one process need not do again: a seventh of its CPU time.

Processes that tests start take no shortcut.
"""

import functools
import os

import httpcore2
from sqlalchemy import event

from gwcore import sql

_statements: dict[tuple[str, sql.Migrations], list[tuple[str, object]]] = {}


def take():
    """Read the system's certificates once; replay what a branch's migrations do to an empty store."""
    httpcore2.default_ssl_context = functools.partial(_certificates, httpcore2.default_ssl_context)
    sql._upgrade = functools.partial(_upgrade, sql._upgrade)


def _certificates(make, **options):
    return _read(make, *map(os.environ.get, ("SSL_CERT_FILE", "SSL_CERT_DIR")), **options)


@functools.cache
def _read(make, _file, _folder, **options):
    return make(**options)


def _upgrade(upgrade, connection, migrations):
    branch = connection.dialect.name, migrations
    if sql._revision(connection, migrations) is not None:
        upgrade(connection, migrations)
    elif branch in _statements:
        for statement, parameters in _statements[branch]:
            connection.exec_driver_sql(statement, parameters or None)
    else:
        done = []

        def note(_connection, _cursor, statement, parameters, _context, _many):
            done.append((statement, parameters))

        event.listen(connection, "after_cursor_execute", note)
        try:
            upgrade(connection, migrations)
        finally:
            event.remove(connection, "after_cursor_execute", note)
        _statements[branch] = [one for one in done if not one[0].lstrip().startswith(("SELECT", "PRAGMA"))]
