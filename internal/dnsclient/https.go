package dnsclient

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
)

// messageType is the media type of DNS messages (RFC 8484).
const messageType = "application/dns-message"

// httpsServer is a server of DNS over HTTPS (RFC 8484).
type httpsServer struct {
	name      string // for errors
	url       string
	transport *http.Transport
}

func newHTTPSServer(s Server) *httpsServer {
	return &httpsServer{
		name: s.String(),
		url:  s.URL,
		transport: &http.Transport{
			Proxy:               http.ProxyFromEnvironment,
			ForceAttemptHTTP2:   true,
			TLSClientConfig:     &tls.Config{RootCAs: s.Roots, MinVersion: tls.VersionTLS12},
			TLSHandshakeTimeout: handshakeTimeout,
			MaxIdleConnsPerHost: maxIdle,
			IdleConnTimeout:     idleTimeout,
		},
	}
}

func (s *httpsServer) String() string { return s.name }
func (s *httpsServer) close()         { s.transport.CloseIdleConnections() }

// exchange queries the server. The ID of the query is 0 on the way, so that HTTP
// caches work. Redirects are not followed.
func (s *httpsServer) exchange(ctx context.Context, query []byte) (reply, error) {
	sent := bytes.Clone(query)
	sent[0], sent[1] = 0, 0
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url, bytes.NewReader(sent))
	if err != nil {
		return reply{}, err
	}
	request.Header.Set("Content-Type", messageType)
	request.Header.Set("Accept", messageType)
	response, err := s.transport.RoundTrip(request)
	if err != nil {
		return reply{}, cause(ctx, err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return reply{}, fmt.Errorf("HTTP status %s", response.Status)
	}
	msg, err := io.ReadAll(io.LimitReader(response.Body, 64<<10))
	if err != nil {
		return reply{}, cause(ctx, err)
	}
	if !answers(msg, sent) {
		return reply{}, errors.New("the response is no reply to the query")
	}
	copy(msg, query[:2])
	age, _ := strconv.ParseUint(response.Header.Get("Age"), 10, 32)
	return reply{msg: msg, age: uint32(age)}, nil
}
