// Both services with Go's net/http and nothing else, the transport tuned to keep its connections.
//
//	pair-go a PORT
//	pair-go b PORT URL-OF-A
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"sync"
	"time"
)

// The log is written in blocks, at the latest after 200 ms: a line a write would cost Go twice as much.
var log = struct {
	sync.Mutex
	*bufio.Writer
}{Writer: bufio.NewWriterSize(os.Stdout, 64*1024)}

func flushForEver() {
	for range time.Tick(200 * time.Millisecond) {
		log.Lock()
		log.Flush()
		log.Unlock()
	}
}

func answer(w http.ResponseWriter, status int, body any) {
	text, _ := json.Marshal(body)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	w.Write(append(text, '\n'))
}

// handle answers path with what handler says, and logs it.
func handle(service, path string, handler func(r *http.Request) (int, any)) {
	http.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		status, body := handler(r)
		answer(w, status, body)
		log.Lock()
		defer log.Unlock()
		fmt.Fprintf(log, "time=%s level=info service=%s method=%s endpoint=%s status=%d latency_ms=%.3f\n",
			start.UTC().Format("2006-01-02T15:04:05.000000Z"), service, r.Method, path, status,
			float64(time.Since(start).Microseconds())/1000)
	})
}

type echo struct {
	Echo string `json:"echo"`
}

func a(r *http.Request) (int, any) {
	return http.StatusOK, echo{r.URL.Query().Get("msg")}
}

func b(url string) func(r *http.Request) (int, any) {
	client := http.Client{
		Timeout:   time.Second,
		Transport: &http.Transport{MaxIdleConns: 1000, MaxIdleConnsPerHost: 1000, DisableCompression: true},
	}
	unavailable := map[string]string{"service_b": "ok", "service_a": "unavailable"}
	return func(r *http.Request) (int, any) {
		request, _ := http.NewRequest("GET", url+"/echo", nil)
		query := request.URL.Query()
		query.Set("msg", r.URL.Query().Get("msg"))
		request.URL.RawQuery = query.Encode()
		response, err := client.Do(request)
		if err != nil {
			return http.StatusServiceUnavailable, unavailable
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		var said echo
		if err != nil || response.StatusCode != http.StatusOK || json.Unmarshal(body, &said) != nil {
			return http.StatusServiceUnavailable, unavailable
		}
		return http.StatusOK, map[string]any{"service_a": said, "service_b": "ok"}
	}
}

func main() {
	service, port := os.Args[1], os.Args[2]
	go flushForEver()
	if service == "a" {
		handle("a", "/echo", a)
	} else {
		handle("b", "/call-echo", b(os.Args[3]))
	}
	fmt.Fprintln(os.Stderr, http.ListenAndServe("127.0.0.1:"+port, nil))
	os.Exit(1)
}
