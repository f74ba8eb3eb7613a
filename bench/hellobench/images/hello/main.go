// Command hello is the program of the hello-world image: it says hello.
package main

import "fmt"

func main() {
	fmt.Println("Hello from Docker!")
	fmt.Println("This message shows that the image was pulled and its program runs.")
}
