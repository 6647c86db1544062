// Package asyncrelay reads the YAML files of the program async-relay. Its [Adapter]
// converts them to Caddy's JSON or to a Caddyfile, reads the runtime file with the
// edits made in the page ([Source]), and applies an edit. [Schema] returns the JSON
// schema of the files. The settings of a service become a [caddyfile.Config]; its
// options are keys of the files. The package promises no API to other modules.
//
// A file is read in these steps. Their problems are collected in a report (report.go)
// and returned together:
//
//	text -> document.go, json.go  text to nodes
//	     -> tree.go               tags, aliases, merge keys and duplicate keys of all nodes
//	     -> value.go, scalar.go   nodes to values, by the rules of YAML 1.1
//	     -> service.go, web.go    values to settings
//	     -> emit.go, convert.go   settings to Caddy's JSON, or to a Caddyfile
package asyncrelay
