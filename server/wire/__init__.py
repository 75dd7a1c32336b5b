"""What the server says and hears: a frozen Struct per answer and body of the contract, and the functions making them.

Law of this package: it is pure. Domain values come in (µs, picodollars, names), wire values go out (RFC 3339, decimal
strings, finite numbers or null); no database, no clock, no framework. The Structs' names are those of the OpenAPI
document's schemas, so each is unique in the whole package.
"""
