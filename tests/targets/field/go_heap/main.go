// A service that keeps a session for each request, 1,000 a second; churn keeps nothing. Truth each 0.25 s.
package main

import (
	"fmt"
	"time"
)

type session struct {
	id  int
	buf []byte
}

var kept []*session

//go:noinline
func remember(i int) { kept = append(kept, &session{i, make([]byte, 4000)}) }

//go:noinline
func churn(i int) int { return len(fmt.Sprintf("%d-%s", i, make([]byte, 2000))) }

func main() {
	for i := 0; ; i++ {
		remember(i)
		churn(i)
		time.Sleep(time.Millisecond)
		if i%250 == 0 {
			fmt.Printf("%.3f kept_bytes %d\n", float64(time.Now().UnixMilli())/1000, len(kept)*4000)
		}
	}
}
