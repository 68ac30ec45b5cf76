package org.sparkray.data;

import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import org.apache.spark.sql.types.DataTypes;
import org.apache.spark.sql.types.StructType;
import org.junit.jupiter.api.Test;

class FlatTypesTest {
  @Test
  void flatColumnsAreTaken() {
    FlatTypes.check(
        new StructType()
            .add("a", DataTypes.BooleanType)
            .add("b", DataTypes.createDecimalType(38, 10))
            .add("c", DataTypes.TimestampNTZType)
            .add("d", DataTypes.BinaryType));
    FlatTypes.check(new StructType());
  }

  @Test
  void aNestedColumnIsNamedWithItsType() {
    StructType schema =
        new StructType()
            .add("id", DataTypes.LongType)
            .add("tags", DataTypes.createArrayType(DataTypes.StringType));
    IllegalArgumentException refusal =
        assertThrows(IllegalArgumentException.class, () -> FlatTypes.check(schema));
    assertTrue(
        refusal.getMessage().startsWith("column 'tags' has the type array<string>"),
        refusal.getMessage());
  }
}
