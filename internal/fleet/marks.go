package fleet

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"time"
)

// This file has the marks of changes. One key of the storage has the latest ones, the
// newest first, each with the node that has changed. So a poll costs one operation, and
// a change costs each node one more: it loads the record of that node.
//
// A node that marks a change loads the key and stores it with its own mark in front. Two
// nodes that do so at the same time may lose the mark of one. That node notices at one of
// its next polls, and marks the change again. A node that has read a lost mark does not
// find it in the key any more, and reads all records. So do nodes that have missed more
// marks than the key holds, and all nodes once in a beat.

const (
	maxMarks   = 32               // that the key holds
	confirmFor = 2 * roundTimeout // later, no write is in progress whose read was before this node's mark
)

// marks are the marks of changes, the newest first. Each is the id of a node, a blank
// and a number.
type marks []string

func parseMarks(text []byte) marks {
	list := strings.FieldsFunc(string(text), func(r rune) bool { return r == '\n' })
	return list[:min(len(list), maxMarks)]
}

// newest returns the newest mark; "" if there is none.
func (l marks) newest() string {
	if len(l) == 0 {
		return ""
	}
	return l[0]
}

// since returns the nodes whose marks are newer than last. ok is false if last is not
// among the marks.
func (l marks) since(last string) (nodes []string, ok bool) {
	for _, mark := range l {
		if mark == last {
			return nodes, true
		}
		node, _, _ := strings.Cut(mark, " ")
		if !slices.Contains(nodes, node) {
			nodes = append(nodes, node)
		}
	}
	return nil, false
}

// loadMarks loads the marks.
func (m *Member) loadMarks(ctx context.Context) (marks, error) {
	text, err := m.counted().Load(ctx, m.prefix("changed"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("load the marks of changes: %w", err)
	}
	return parseMarks(text), nil
}

// mark marks a change of this node.
func (m *Member) mark(ctx context.Context, now time.Time) error {
	list, err := m.loadMarks(ctx)
	if err != nil {
		return err
	}
	m.marked++
	own := m.id + " " + strconv.FormatUint(m.marked, 10)
	list = append(marks{own}, list[:min(len(list), maxMarks-1)]...)
	if err := m.counted().Store(ctx, m.prefix("changed"), []byte(strings.Join(list, "\n"))); err != nil {
		return fmt.Errorf("mark a change: %w", err)
	}
	m.ownMark, m.ownOlder, m.confirmUntil = own, list[1:], now.Add(confirmFor)
	return nil
}

// confirm marks the latest change of this node again if another node has replaced its
// mark.
func (m *Member) confirm(ctx context.Context, list marks, now time.Time) error {
	switch {
	case m.ownMark == "":
		return nil
	case now.After(m.confirmUntil):
		m.ownMark = ""
		return nil
	case slices.Contains(list, m.ownMark):
		return nil
	case len(list) == maxMarks && !slices.ContainsFunc(m.ownOlder, func(mark string) bool { return slices.Contains(list, mark) }):
		// More changes came than the key holds. Those who have not read the mark of this
		// node find none that they have read, and read all records. One older mark that is
		// left shows that the mark of this node was lost, and not pushed out. The mark after
		// it may have been lost too.
		return nil
	}
	return m.mark(ctx, now)
}
