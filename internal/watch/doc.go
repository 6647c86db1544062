// Package watch reports changes of a file's content. It polls the file, so it
// works on every system and file system, and detects every kind of change: the
// file is written in place, replaced by another one, or reached through a
// symbolic link that now points elsewhere.
//
// The package promises no API to other modules.
package watch
