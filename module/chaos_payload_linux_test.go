package module_test

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
)

// mark names one stream or datagram of a client. Every record of its content
// holds the mark, so that bytes of another client are recognized wherever they
// arrive.
type mark struct {
	service     string
	client, seq int
}

const recordSize = 64

// fill writes the content from an offset, a multiple of recordSize, into b. Its
// records hold the mark and their own offset.
func (m mark) fill(b []byte, offset int) {
	prefix := fmt.Sprintf("%s %d %d ", m.service, m.client, m.seq)
	record := make([]byte, recordSize)
	for i := range record {
		record[i] = '.'
	}
	copy(record, prefix)
	record[recordSize-1] = '\n'
	for done := 0; done < len(b); done += recordSize {
		number := strconv.AppendInt(record[:len(prefix)], int64(offset+done), 10) // grows, so it covers the number before
		_ = append(number, ' ')
		copy(b[done:], record)
	}
}

// content returns the first size bytes.
func (m mark) content(size int) []byte {
	b := make([]byte, size)
	m.fill(b, 0)
	return b
}

// markIn returns the mark of the first whole record in b. ok is false if b has none.
func markIn(b []byte) (m mark, ok bool) {
	for line := range bytes.Lines(b) {
		if len(line) != recordSize {
			continue
		}
		if n, err := fmt.Sscan(string(line), &m.service, &m.client, &m.seq); n == 3 && err == nil {
			return m, true
		}
	}
	return m, false
}

// shortened returns text that was received, for messages.
func shortened(b []byte) string {
	return strconv.Quote(strings.TrimRight(string(b[:min(len(b), 2*recordSize)]), "."))
}
