// Package watch tells of changes of a file's content by looking at it again and
// again, which works on every system and file system, and whatever it is that
// changes: the file in place, the file that has the name, or a symbolic link on
// the way to it.
package watch
