package caddyfile

import (
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
)

// HTTPRange is a range of HTTP statuses.
type HTTPRange struct{ From, To int }

// http returns the options of the HTTP request, or nil if there is none.
func (h *HealthCheck) http() *HTTPOptions {
	if h.HTTP == "" {
		return nil
	}
	o := &HTTPOptions{Path: h.HTTP, Host: h.Host}
	for _, text := range h.HTTPStatus {
		if r, err := parseHTTPRange(text); err == nil {
			o.Status = append(o.Status, r)
		}
	}
	return o
}

// parseHTTPRange parses a status such as 204, a class such as 2xx or a range such
// as 200-399.
func parseHTTPRange(text string) (r HTTPRange, err error) {
	if class, ok := strings.CutSuffix(text, "xx"); ok {
		if n, err := strconv.Atoi(class); err == nil && len(class) == 1 {
			r = HTTPRange{n * 100, n*100 + 99}
		}
	} else {
		from, to, isRange := strings.Cut(text, "-")
		if !isRange {
			to = from
		}
		first, err1 := strconv.Atoi(from)
		last, err2 := strconv.Atoi(to)
		if errors.Join(err1, err2) == nil && len(from) == 3 && len(to) == 3 && first <= last {
			r = HTTPRange{first, last}
		}
	}
	if r.From < 100 || r.To > 599 {
		return HTTPRange{}, fmt.Errorf("must be a status such as 204, a class such as 2xx or a range such as 200-399, got %s", Quoted(text))
	}
	return r, nil
}

// checkPath rejects what cannot be the path and query of a request.
func checkPath(path string) error {
	u, err := url.ParseRequestURI(path)
	if err != nil || !strings.HasPrefix(path, "/") || strings.HasPrefix(path, "//") || strings.Contains(path, "#") || strings.ContainsFunc(path, blankOrControl) || u.Host != "" {
		return fmt.Errorf("must be a path that begins with a slash, such as /health, got %s", Quoted(path))
	}
	return nil
}

// checkHost rejects what cannot be a Host header.
func checkHost(host string) error {
	u, err := url.Parse("http://" + host)
	if err != nil || host == "" || u.Host != host || strings.ContainsFunc(host, blankOrControl) {
		return fmt.Errorf("must be a host name, with a port if need be, got %s", Quoted(host))
	}
	return nil
}

// setHTTP sets the path and the statuses.
func setHTTP(c *Config, args []string) error {
	if !placeholder.MatchString(args[0]) {
		if err := checkPath(args[0]); err != nil {
			return err
		}
	}
	for _, text := range args[1:] {
		if _, err := parseHTTPRange(text); err != nil {
			return err
		}
	}
	c.HealthCheck.HTTP, c.HealthCheck.HTTPStatus = args[0], args[1:]
	return nil
}

func getHTTP(c *Config) ([]string, bool) {
	if c.HealthCheck == nil || c.HealthCheck.HTTP == "" {
		return nil, false
	}
	return append([]string{c.HealthCheck.HTTP}, c.HealthCheck.HTTPStatus...), true
}

func setHost(c *Config, args []string) error {
	if !placeholder.MatchString(args[0]) {
		if err := checkHost(args[0]); err != nil {
			return err
		}
	}
	c.HealthCheck.Host = args[0]
	return nil
}
