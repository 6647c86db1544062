// Package page serves the live page: the handler http.handlers.relay_page, which
// shows the services of the relay in a browser and lets an operator change them.
//
// The page is a few embedded files. It gets the state of all services as
// server-sent events from one [hub] per process, and its buttons send the
// requests of the admin API. Package module passes in the running relays.
//
// The package promises no API: its exported names exist for package module and for
// Caddy, and may change with any release.
package page
