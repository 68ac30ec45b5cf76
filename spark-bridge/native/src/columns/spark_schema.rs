//! Spark's schema on this side: the flat types with their names in `StructType.json()`, their types in Arrow, and the
//! schema that a block carries.
//!
//! Strings have two Arrow types: `Utf8` in the schema that others read, `Binary` where their bytes are handled here.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use arrow_schema::{DataType, Field, Schema, TimeUnit};
use serde_json::{Value, json};

use super::ColumnError;
use super::field_metadata::{CHAR_VARCHAR, METADATA_KEY, Metadata, from_struct_field};

/// Key of the metadata in which a block keeps the session's time zone.
pub(crate) const TIME_ZONE_KEY: &str = "spark.sql.session.timeZone";

/// The flat types of Spark SQL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum SparkType {
    Boolean,
    Byte,
    Short,
    Integer,
    Long,
    Float,
    Double,
    Decimal {
        precision: u8,
        scale: u8,
    },
    String,
    Binary,
    Date,
    Timestamp,
    TimestampNtz,
    /// Only nulls. Comes from Arrow's null columns; Spark's rows do not bring it.
    Void,
}

impl fmt::Display for SparkType {
    /// The name that `StructType.json()` uses.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::Boolean => "boolean",
            Self::Byte => "byte",
            Self::Short => "short",
            Self::Integer => "integer",
            Self::Long => "long",
            Self::Float => "float",
            Self::Double => "double",
            Self::Decimal { precision, scale } => return write!(formatter, "decimal({precision},{scale})"),
            Self::String => "string",
            Self::Binary => "binary",
            Self::Date => "date",
            Self::Timestamp => "timestamp",
            Self::TimestampNtz => "timestamp_ntz",
            Self::Void => "void",
        };
        formatter.write_str(name)
    }
}

impl SparkType {
    fn from_name(name: &str) -> Option<Self> {
        let flat = match name {
            "boolean" => Self::Boolean,
            "byte" => Self::Byte,
            "short" => Self::Short,
            "integer" => Self::Integer,
            "long" => Self::Long,
            "float" => Self::Float,
            "double" => Self::Double,
            "string" => Self::String,
            "binary" => Self::Binary,
            "date" => Self::Date,
            "timestamp" => Self::Timestamp,
            "timestamp_ntz" => Self::TimestampNtz,
            "void" => Self::Void,
            "decimal" => Self::Decimal {
                precision: 10,
                scale: 0,
            },
            _ => return Self::decimal_from_name(name),
        };
        Some(flat)
    }

    fn decimal_from_name(name: &str) -> Option<Self> {
        let (precision, scale) = name
            .strip_prefix("decimal(")?
            .strip_suffix(')')?
            .split_once(',')?;
        let precision: u8 = precision.trim().parse().ok()?;
        let scale: u8 = scale.trim().parse().ok()?;
        (1..=38)
            .contains(&precision)
            .then_some(Self::Decimal { precision, scale })
    }

    /// Arrow's type for it.
    pub(crate) fn arrow_type(self) -> DataType {
        match self {
            Self::Boolean => DataType::Boolean,
            Self::Byte => DataType::Int8,
            Self::Short => DataType::Int16,
            Self::Integer => DataType::Int32,
            Self::Long => DataType::Int64,
            Self::Float => DataType::Float32,
            Self::Double => DataType::Float64,
            Self::Decimal { precision, scale } => DataType::Decimal128(precision, scale as i8),
            Self::String => DataType::Utf8,
            Self::Binary => DataType::Binary,
            Self::Date => DataType::Date32,
            Self::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            Self::TimestampNtz => DataType::Timestamp(TimeUnit::Microsecond, None),
            Self::Void => DataType::Null,
        }
    }

    /// Arrow's type for it where strings are bytes.
    pub(crate) fn storage_type(self) -> DataType {
        match self {
            Self::String => DataType::Binary,
            other => other.arrow_type(),
        }
    }
}

/// One column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SparkField {
    pub(crate) name: String,
    pub(crate) spark_type: SparkType,
    pub(crate) nullable: bool,
    /// What the column says about itself, as `StructField.metadata` in JSON.
    pub(crate) metadata: Metadata,
}

/// The columns of a DataFrame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SparkSchema {
    pub(crate) fields: Vec<SparkField>,
}

impl SparkSchema {
    /// Reads what `StructType.json()` writes; names the first column whose type is not flat.
    pub(crate) fn from_json(text: &str) -> Result<Self, ColumnError> {
        let parsed: Value =
            serde_json::from_str(text).map_err(|error| ColumnError::BadSchema(error.to_string()))?;
        let fields = parsed["fields"]
            .as_array()
            .ok_or_else(|| ColumnError::BadSchema("it is not a StructType in JSON".to_owned()))?;
        let mut columns = Vec::with_capacity(fields.len());
        for field in fields {
            let name = field["name"]
                .as_str()
                .ok_or_else(|| ColumnError::BadSchema("a field has no name".to_owned()))?
                .to_owned();
            let mut metadata = from_struct_field(field);
            let spark_type = field["type"]
                .as_str()
                .and_then(|type_name| {
                    // Spark 4 writes the type itself where it is told to preserve it.
                    if !is_char_or_varchar(type_name) {
                        return SparkType::from_name(type_name);
                    }
                    metadata.insert(CHAR_VARCHAR.to_owned(), Value::from(type_name));
                    Some(SparkType::String)
                })
                .ok_or_else(|| ColumnError::UnsupportedType {
                    column: name.clone(),
                    type_name: type_name_of(&field["type"]),
                    direction: "put into the object store",
                })?;
            columns.push(SparkField {
                name,
                spark_type,
                nullable: field["nullable"].as_bool().unwrap_or(true),
                metadata,
            });
        }
        Ok(Self { fields: columns })
    }

    /// What `DataType.fromJson` reads.
    pub(crate) fn to_json(&self) -> String {
        let fields: Vec<Value> = self
            .fields
            .iter()
            .map(|field| {
                json!({"name": field.name, "type": field.spark_type.to_string(), "nullable": field.nullable,
                       "metadata": field.metadata})
            })
            .collect();
        json!({"type": "struct", "fields": fields}).to_string()
    }

    /// The schema that a block carries.
    pub(crate) fn arrow_schema(&self, time_zone: &str) -> Schema {
        let fields: Vec<Field> = self.fields.iter().map(arrow_field).collect();
        Schema::new(fields).with_metadata(HashMap::from([(TIME_ZONE_KEY.to_owned(), time_zone.to_owned())]))
    }

    /// The schema of the columns as they are built: strings are bytes.
    pub(crate) fn storage_schema(&self) -> Arc<Schema> {
        let fields: Vec<Field> = self
            .fields
            .iter()
            .map(|field| Field::new(&field.name, field.spark_type.storage_type(), field.nullable))
            .collect();
        Arc::new(Schema::new(fields))
    }
}

fn arrow_field(field: &SparkField) -> Field {
    let arrow = Field::new(&field.name, field.spark_type.arrow_type(), field.nullable);
    if field.metadata.is_empty() {
        return arrow;
    }
    let text = Value::Object(field.metadata.clone()).to_string();
    arrow.with_metadata(HashMap::from([(METADATA_KEY.to_owned(), text)]))
}

fn is_char_or_varchar(type_name: &str) -> bool {
    ["char(", "varchar("]
        .iter()
        .any(|start| type_name.starts_with(start) && type_name.ends_with(')'))
}

/// `array<…>`, `map<…>`, `struct<…>` as `DataType.simpleString` would write it.
fn type_name_of(spark_type: &Value) -> String {
    match spark_type {
        Value::String(name) => name.clone(),
        Value::Object(_) => match spark_type["type"].as_str().unwrap_or("unknown") {
            "array" => format!("array<{}>", type_name_of(&spark_type["elementType"])),
            "map" => {
                format!(
                    "map<{},{}>",
                    type_name_of(&spark_type["keyType"]),
                    type_name_of(&spark_type["valueType"])
                )
            }
            "struct" => {
                let fields = spark_type["fields"]
                    .as_array()
                    .map(Vec::as_slice)
                    .unwrap_or_default();
                let inner: Vec<String> = fields
                    .iter()
                    .map(|field| {
                        format!(
                            "{}:{}",
                            field["name"].as_str().unwrap_or_default(),
                            type_name_of(&field["type"])
                        )
                    })
                    .collect();
                format!("struct<{}>", inner.join(","))
            }
            other => other.to_owned(),
        },
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flat_type_is_read_back_from_its_json() {
        let types = [
            SparkType::Boolean,
            SparkType::Byte,
            SparkType::Short,
            SparkType::Integer,
            SparkType::Long,
            SparkType::Float,
            SparkType::Double,
            SparkType::Decimal {
                precision: 38,
                scale: 18,
            },
            SparkType::String,
            SparkType::Binary,
            SparkType::Date,
            SparkType::Timestamp,
            SparkType::TimestampNtz,
        ];
        let fields = types
            .iter()
            .enumerate()
            .map(|(index, spark_type)| SparkField {
                name: format!("c\"{index}"),
                spark_type: *spark_type,
                nullable: index % 2 == 0,
                metadata: Metadata::new(),
            })
            .collect();
        let schema = SparkSchema { fields };
        assert_eq!(SparkSchema::from_json(&schema.to_json()), Ok(schema));
    }

    #[test]
    fn a_nested_type_is_refused_by_the_name_of_its_column() {
        let json = r#"{"type":"struct","fields":[
            {"name":"ok","type":"long","nullable":true,"metadata":{}},
            {"name":"tags","type":{"type":"array","elementType":{"type":"map","keyType":"string",
             "valueType":{"type":"struct","fields":[{"name":"x","type":"double"}]}},"containsNull":true}}]}"#;
        let message = SparkSchema::from_json(json).unwrap_err().to_string();
        assert!(message.contains("'tags'"), "{message}");
        assert!(
            message.contains("array<map<string,struct<x:double>>>"),
            "{message}"
        );
        for other in ["interval day to second", "variant", "decimal(39,0)", "decimal(x)"] {
            let json = format!(r#"{{"type":"struct","fields":[{{"name":"odd","type":"{other}"}}]}}"#);
            let message = SparkSchema::from_json(&json).unwrap_err().to_string();
            assert!(message.contains("'odd'") && message.contains(other), "{message}");
        }
        assert!(matches!(
            SparkSchema::from_json("[]"),
            Err(ColumnError::BadSchema(_))
        ));
        assert!(matches!(
            SparkSchema::from_json("{"),
            Err(ColumnError::BadSchema(_))
        ));
    }
}
