package measure

import (
	"slices"
	"strings"

	"github.com/expr-lang/expr/ast"
)

// resolver holds an expression against what is allowed, and has each column, be it `amount` or
// `row["x.0"]`, read from one variable.
type resolver struct {
	columns []string
	known   bool // the columns are
	used    map[string]bool
}

// whole is the name of the row as such.
const whole = "row"

// maxListed bounds the columns that a text for people names.
const maxListed = 30

// variable is what holds a column. No function is called so.
func variable(name string) string { return whole + "." + name }

// operators are those whose cost is that of their operands: no ranges, no regular expressions.
var operators = []string{"+", "-", "*", "/", "%", "**", "^", "==", "!=", "<", "<=", ">", ">=",
	"and", "&&", "or", "||", "in", "contains", "startsWith", "endsWith"}

// builtins are the library's functions that neither loop over what they have made nor look
// outside.
var builtins = []string{"abs", "ceil", "floor", "float", "int", "len", "lower", "max", "min",
	"round", "trim", "upper"}

// resolve returns what is wrong with a node and those below it.
func (r *resolver) resolve(node *ast.Node) error {
	switch n := (*node).(type) {
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.StringNode:
		return nil
	case *ast.IdentifierNode:
		if n.Value == whole {
			return faultAt(n.Location(), `%s is used as %s["COLUMN"]`, whole, whole)
		}
		return r.column(node, n.Value)
	case *ast.MemberNode:
		of, isName := n.Node.(*ast.IdentifierNode)
		name, isText := n.Property.(*ast.StringNode)
		if !isName || !isText || of.Value != whole || n.Optional {
			return faultAt(n.Location(), `a column whose name has a dot is written row["x.0"]`)
		}
		n.SetLocation(of.Location()) // else that of the bracket
		return r.column(node, name.Value)
	case *ast.UnaryNode:
		return r.resolve(&n.Node)
	case *ast.BinaryNode:
		if !slices.Contains(operators, n.Operator) {
			return faultAt(n.Location(), "%s is not allowed here; operators are %s", n.Operator,
				strings.Join(operators, " "))
		}
		return r.all(&n.Left, &n.Right)
	case *ast.ConditionalNode:
		return r.all(&n.Cond, &n.Exp1, &n.Exp2)
	case *ast.ArrayNode:
		return r.each(n.Nodes)
	case *ast.BuiltinNode:
		if !slices.Contains(builtins, n.Name) {
			return unknownFunction(n, n.Name)
		}
		return r.each(n.Arguments)
	case *ast.CallNode:
		f, ok := n.Callee.(*ast.IdentifierNode)
		if !ok || functions[f.Value] == nil {
			return unknownFunction(n, n.Callee.String())
		}
		return r.each(n.Arguments)
	}
	return faultAt((*node).Location(), "%s is not allowed here: an expression is made of columns, "+
		"numbers, texts, operators and functions", *node)
}

func unknownFunction(n ast.Node, name string) error {
	known := slices.Clone(builtins)
	for f := range functions {
		known = append(known, f)
	}
	slices.Sort(known)
	return faultAt(n.Location(), "there is no function %s here; there are %s", name,
		strings.Join(known, ", "))
}

func (r *resolver) each(nodes []ast.Node) error {
	for i := range nodes {
		if err := r.resolve(&nodes[i]); err != nil {
			return err
		}
	}
	return nil
}

func (r *resolver) all(nodes ...*ast.Node) error {
	for _, n := range nodes {
		if err := r.resolve(n); err != nil {
			return err
		}
	}
	return nil
}

// column has a node read a column.
func (r *resolver) column(node *ast.Node, name string) error {
	if r.known && !slices.Contains(r.columns, name) {
		return faultAt((*node).Location(), "there is no column %q; there are %s", name,
			listed(r.columns))
	}
	if r.used == nil {
		r.used = make(map[string]bool)
	}
	r.used[name] = true
	ast.Patch(node, &ast.IdentifierNode{Value: variable(name)})
	return nil
}

func listed(columns []string) string {
	if len(columns) == 0 {
		return "none: the model has no inputs and outputs that have rows"
	}
	if more := len(columns) - maxListed; more > 0 {
		columns = append(slices.Clone(columns[:maxListed]), "and more")
	}
	return strings.Join(columns, ", ")
}
