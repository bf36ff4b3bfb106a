package batch

type ticketState struct{}
