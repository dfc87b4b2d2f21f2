//! ONNX's messages (`onnx.proto`), as far as they are read: the graph and its nodes with their attributes.

use crate::models::import::Refused;
use crate::models::import::protobuf::{Value, fields};
use std::collections::BTreeMap;

#[derive(Debug, Default)]
pub(super) struct Graph {
    pub nodes: Vec<Operator>,
    pub inputs: Vec<Input>,
}

#[derive(Debug, Default)]
pub(super) struct Operator {
    pub inputs: Vec<String>,
    pub outputs: Vec<String>,
    pub name: String,
    pub kind: String,
    pub attributes: BTreeMap<String, Attribute>,
}

#[derive(Debug, Default)]
pub(super) struct Attribute {
    pub text: String,
    pub integer: i64,
    /// Of `floats`, or of a tensor of doubles or floats.
    pub numbers: Vec<f64>,
    pub integers: Vec<i64>,
    pub texts: Vec<String>,
}

#[derive(Debug, Default)]
pub(super) struct Input {
    pub name: String,
    /// `TensorProto.DataType`: 1 for singles, 11 for doubles.
    pub element: u64,
    /// Of the last dimension; 0 where it is not known.
    pub width: usize,
}

pub(super) const SINGLE: u64 = 1;
pub(super) const DOUBLE: u64 = 11;

pub(super) fn read(model: &[u8]) -> Result<Graph, Refused> {
    let graph = fields(model)?.into_iter().find(|(number, _)| *number == 7);
    let (_, graph) = graph.ok_or_else(|| Refused::new("the model", "it has no graph"))?;
    let mut found = Graph::default();
    let mut constants = Vec::new();
    for (number, value) in fields(graph.bytes()?)? {
        match number {
            1 => found.nodes.push(operator(value.bytes()?)?),
            5 => constants.extend(fields(value.bytes()?)?.into_iter().filter(|(number, _)| *number == 8)),
            11 => found.inputs.push(input(value.bytes()?)?),
            _ => {}
        }
    }
    // Old files list constants among the inputs.
    for (_, name) in constants {
        let name = name.text()?;
        found.inputs.retain(|input| input.name != name);
    }
    Ok(found)
}

fn operator(message: &[u8]) -> Result<Operator, Refused> {
    let mut found = Operator::default();
    for (number, value) in fields(message)? {
        match number {
            1 => found.inputs.push(value.text()?),
            2 => found.outputs.push(value.text()?),
            3 => found.name = value.text()?,
            4 => found.kind = value.text()?,
            5 => {
                let (name, attribute) = attribute(value.bytes()?)?;
                found.attributes.insert(name, attribute);
            }
            _ => {}
        }
    }
    Ok(found)
}

fn attribute(message: &[u8]) -> Result<(String, Attribute), Refused> {
    let (mut name, mut found) = (String::new(), Attribute::default());
    for (number, value) in fields(message)? {
        match number {
            1 => name = value.text()?,
            2 | 7 => value.singles(&mut found.numbers)?,
            3 => {
                if let Value::Varint(integer) = value {
                    found.integer = integer.cast_signed();
                }
            }
            4 => found.text = value.text()?,
            5 => tensor(value.bytes()?, &mut found.numbers)?,
            8 => value.integers(&mut found.integers)?,
            9 => found.texts.push(value.text()?),
            _ => {}
        }
    }
    Ok((name, found))
}

fn tensor(message: &[u8], into: &mut Vec<f64>) -> Result<(), Refused> {
    let (mut element, mut raw) = (0, None);
    for (number, value) in fields(message)? {
        match (number, value) {
            (2, Value::Varint(kind)) => element = kind,
            (4, values) => values.singles(into)?,
            (10, values) => values.doubles(into)?,
            (9, values) => raw = Some(values),
            _ => {}
        }
    }
    match (raw, element) {
        (Some(raw), SINGLE) => raw.singles(into),
        (Some(raw), DOUBLE) => raw.doubles(into),
        _ => Ok(()),
    }
}

fn input(message: &[u8]) -> Result<Input, Refused> {
    let mut found = Input::default();
    for (number, value) in fields(message)? {
        match number {
            1 => found.name = value.text()?,
            2 => {
                for (_, tensor) in fields(value.bytes()?)?.into_iter().filter(|(number, _)| *number == 1) {
                    for (number, value) in fields(tensor.bytes()?)? {
                        match (number, value) {
                            (1, Value::Varint(element)) => found.element = element,
                            (2, shape) => found.width = last_dimension(shape.bytes()?)?,
                            _ => {}
                        }
                    }
                }
            }
            _ => {}
        }
    }
    Ok(found)
}

fn last_dimension(shape: &[u8]) -> Result<usize, Refused> {
    let Some((_, last)) = fields(shape)?.into_iter().rfind(|(number, _)| *number == 1) else { return Ok(0) };
    let size = fields(last.bytes()?)?.into_iter().find_map(|(number, value)| match (number, value) {
        (1, Value::Varint(size)) => usize::try_from(size).ok(),
        _ => None,
    });
    Ok(size.unwrap_or_default())
}
