package handler

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
)

// HTTPProbe is a GET request whose status decides whether a backend works.
// Redirects are not followed.
type HTTPProbe struct {
	Path   string        // with the query, if any
	Host   string        // the header Host; "": the address that is probed
	Status []StatusRange // healthy ones; empty: 200 to 299
}

// StatusRange is a range of HTTP statuses.
type StatusRange struct{ From, To int }

// String returns the range as in 204 or 200-299.
func (r StatusRange) String() string {
	if r.From == r.To {
		return fmt.Sprint(r.From)
	}
	return fmt.Sprintf("%d-%d", r.From, r.To)
}

// successful is the default of HTTPProbe.Status.
var successful = []StatusRange{{200, 299}}

// maxResponse limits the header of a response, and what is read of its body.
const maxResponse = 64 << 10

// exchange makes the request over conn, after the header of the PROXY protocol, if
// any. If there are expected texts, the first 64 KiB of the body must contain one of
// them.
func (p *HTTPProbe) exchange(ctx context.Context, conn net.Conn, header []byte, expect [][]byte) error {
	defer endWith(ctx, conn)()
	if _, err := conn.Write(header); err != nil && len(header) > 0 {
		return exchangeFailed(ctx, conn, 0, err)
	}
	used := make(chan struct{}, 1) // the one connection of the transport
	transport := &http.Transport{
		DialContext: func(context.Context, string, string) (net.Conn, error) {
			select {
			case used <- struct{}{}:
				return conn, nil
			default:
				return nil, errors.New("health check makes one connection")
			}
		},
		DisableKeepAlives:      true,
		DisableCompression:     true,
		MaxResponseHeaderBytes: maxResponse,
	}
	defer transport.CloseIdleConnections()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://localhost"+p.Path, nil)
	if err != nil {
		return err
	}
	request.URL.Host = conn.RemoteAddr().String() // not parsed as a URL, because it may have a zone
	request.Host = cmp.Or(p.Host, request.URL.Host)
	request.Header.Set("User-Agent", "caddy-relay health check")
	response, err := transport.RoundTrip(request) // not a Client's: that follows redirects
	if err != nil {
		if strings.Contains(err.Error(), "malformed") {
			// The error quotes the answer, and an echo server answers with the request.
			err = errors.New("the answer is not HTTP")
		}
		return p.failed(ctx, request, err)
	}
	defer response.Body.Close()
	if !p.accepts(response.StatusCode) {
		return p.failed(ctx, request, fmt.Errorf("status %d, want %s", response.StatusCode, p.wanted()))
	}
	if len(expect) == 0 {
		return nil
	}
	body, err := io.ReadAll(io.LimitReader(response.Body, maxResponse))
	switch {
	case containsOne(body, expect, 0):
		return nil
	case err != nil:
		return p.failed(ctx, request, err)
	default:
		return p.failed(ctx, request, fmt.Errorf("expected answer not in the first %d bytes of the body", len(body)))
	}
}

// failed returns the error of a request. It leaves out the path, which may have a
// secret from a placeholder: the error goes to logs, the journal and the page.
func (p *HTTPProbe) failed(ctx context.Context, request *http.Request, err error) error {
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return fmt.Errorf("health check GET from %s: %w", request.URL.Host, err)
}

func (p *HTTPProbe) ranges() []StatusRange {
	if len(p.Status) == 0 {
		return successful
	}
	return p.Status
}

func (p *HTTPProbe) accepts(status int) bool {
	return slices.ContainsFunc(p.ranges(), func(r StatusRange) bool { return r.From <= status && status <= r.To })
}

// wanted returns the accepted statuses as text.
func (p *HTTPProbe) wanted() string {
	var texts []string
	for _, r := range p.ranges() {
		texts = append(texts, r.String())
	}
	return strings.Join(texts, ", ")
}
