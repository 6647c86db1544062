// Package yamlfile loads the YAML files of async-relay into the running Caddy: at the
// start of `caddy async-relay`, when the file changes, and when the page edits the
// settings. Edits are kept in config.runtime.yaml next to the file.
//
// The package promises no API.
package yamlfile
